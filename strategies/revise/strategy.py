"""ReVISE, refine via intrinsic self-verification (arXiv 2502.14565).

    after an attempt y the model says its end, or refine; at refine it goes on with another attempt
    confidence of an attempt: P(end) at the position after it
    of n samples, the answer with the largest sum of confidences over the samples that share it

The checkpoint must have been trained to say the token; `mode = prompted` asks any chat model in words instead, which is
an approximation. The answer is the last attempt alone: those before it are thoughts. An attempt that was cut is not
verified, and counts only where a sample has no other; its confidence is 0.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field
from typing_extensions import override

from strategies.answers import AnswerKind
from strategies.base import Answer, Event, InvalidTask, Note, Params, Strategy, Task, Thought, require_samples_differ
from strategies.engine import Capabilities, Engine, Generation, Sampling
from strategies.merge import side_by_side
from strategies.revise.verify import ByQuestion, ByToken, Confidence, Verdict, Verifier
from strategies.session import Exhausted, Session
from strategies.vote import Vote

REFINE = "<|refine|>"
"""The token of a checkpoint that names none."""


class ReviseParams(Params):
    """ReVISE, arXiv 2502.14565."""

    mode: Literal["trained", "prompted"] = Field(
        "trained",
        description="trained: by the refine token of a checkpoint trained for it; prompted: any chat model, asked in "
        "words whether its answer is correct, an approximation.",
    )
    token: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="The refine token, in mode trained; by default the one that the checkpoint names "
        "(`refine_token` in its config.json, as `redraft train` writes it), else <|refine|>.",
    )
    rounds: int = Field(1, ge=0, le=8, description="Further attempts at most. The paper trains for one.")
    samples: int = Field(1, ge=1, le=64, description="Samples side by side. The paper has 5, and up to 64.")
    confidence: Confidence = Field(
        "end", description="end: P(end), as published; ratio: P(end) / (P(end) + P(refine)). In mode trained."
    )
    aggregate: Literal["confidence", "majority"] = Field(
        "confidence", description="confidence: samples vote with their confidence; majority: with one vote each."
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Think again where the confidence is less, whatever the model chose: 0 never, 1 always. By default "
        "the model chooses, as published.",
    )
    answer: AnswerKind = Field("auto", description="What the vote compares, as in self_consistency.")


@dataclass(frozen=True, slots=True)
class Attempt:
    """The latest attempt of a sample."""

    generation: Generation
    confidence: float


class Revise(Strategy):
    """Attempts and their verification, sample by sample, all samples side by side."""

    name = "revise"
    summary = "Has a model trained for it verify its own attempt, and think again where it is not sure."
    paper = "arXiv:2502.14565"
    needs = frozenset({"tokens", "scores"})
    Parameters = ReviseParams
    params: ReviseParams

    @override
    def check(self, task: Task, engine: Engine) -> None:
        p = self.params
        require_samples_differ(task, p.samples)
        if p.mode == "prompted" and task.continues:
            raise InvalidTask("mode prompted cannot continue an assistant message", "continue_final_message")
        if p.mode == "prompted":
            return
        name = token_of(p, engine.capabilities)
        token = engine.added_token(name)
        # A tokenizer may know a token for which the model has no weights.
        if token is None or token in engine.capabilities.end_tokens or token >= engine.capabilities.vocab_size:
            raise InvalidTask(
                f"this model has no token {name!r} of its own, so it was not trained for revise. Train it to say "
                "one where an attempt of its own is wrong and to go on with a right one (arXiv:2502.14565; `redraft "
                "train revise` does), serve that checkpoint, and name its token in the parameter 'token'; or ask with "
                "mode 'prompted', an approximation.",
                "strategy",
            )
        if task.sampling.grammar is not None:
            raise InvalidTask(
                "no grammar allows the token with which revise thinks again; ask without response_format and "
                "tool_choice",
                "response_format",
            )

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        p = self.params
        latest: dict[int, Attempt] = {}
        first = engine.sample(
            task.prompt, [self._sampling(task, engine, 0, i) for i in range(p.samples)], role="attempt"
        )
        async for event in side_by_side(engine, first, "attempt", lambda y: self._go_on(task, engine, y, latest)):
            yield event
        attempts = [latest[branch] for branch in sorted(latest)]
        vote = Vote(p.answer)
        for attempt in [one for one in attempts if one.generation.complete] or attempts:
            weight = attempt.confidence if p.aggregate == "confidence" else 1.0
            await engine.bounded(vote.add(attempt.generation, weight))
        winner = vote.winner()
        shares = {group.answer: group.weight for group in vote.groups}
        yield Note("result", f"{winner.weight:.3g} for {winner.answer}", {"votes": shares})
        yield Answer.of(winner.first)

    async def _go_on(
        self, task: Task, engine: Session, y: Generation, latest: dict[int, Attempt]
    ) -> AsyncGenerator[Event, None]:
        """Verifies the attempts of one sample, and makes further ones."""
        branch, verifier = y.branch, self._verifier(task, engine)
        try:
            for round in range(self.params.rounds + 1):
                if branch not in latest or _is_answer(y):
                    latest[branch] = Attempt(y, 0.0)
                engine.keep(_surest(latest))
                if not _is_answer(y):
                    return
                verdict = self._decided(await verifier.verify(y))
                latest[branch] = Attempt(y, verdict.confidence)
                engine.keep(_surest(latest))
                data = {
                    "round": round,
                    "confidence": verdict.confidence,
                    "refine": verdict.refine,
                    "mass": verdict.mass,
                }
                text = f"attempt {round}: confidence {verdict.confidence:.3f}"
                yield Note("verified", text, data, branch=branch, role="attempt")
                if not verdict.refine or round == self.params.rounds:
                    return
                prompt, continues = await verifier.again()
                engine.rounds = max(engine.rounds, round + 1)
                sampling = self._sampling(task, engine, round + 1, branch)
                call = engine.call(prompt, sampling, role="attempt", branch=branch, continues=continues)
                async for piece in call:
                    yield Thought(piece.text, "attempt", branch)
                y = replace(call.result, branch=branch)
        except Exhausted:
            # The other samples may have what this one lacks.
            return

    def _decided(self, verdict: Verdict) -> Verdict:
        """By the threshold, if there is one, in place of the model's own choice."""
        threshold = self.params.threshold
        if threshold is None:
            return verdict
        # A confidence of 1 is not sure either where another attempt is wanted always.
        return replace(verdict, refine=verdict.confidence < threshold or threshold == 1)

    def _verifier(self, task: Task, engine: Session) -> Verifier:
        if self.params.mode == "prompted":
            return ByQuestion(task, engine)
        return ByToken(task, engine, self._token(engine), self.params.confidence)

    def _sampling(self, task: Task, engine: Session, round: int, branch: int) -> Sampling:
        sampling = task.sampling_for(
            "attempt",
            round=round,
            branch=branch,
            max_tokens=task.sampling.max_tokens,
            min_tokens=task.sampling.min_tokens,
            logprobs=task.sampling.logprobs,
        )
        if self.params.mode == "prompted":
            return sampling
        return replace(sampling, stop_token_ids=(*sampling.stop_token_ids, self._token(engine)))

    def _token(self, engine: Session) -> int:
        token = engine.added_token(token_of(self.params, engine.capabilities))
        assert token is not None  # `check` says so.
        return token


def token_of(params: ReviseParams, capabilities: Capabilities) -> str:
    """The refine token: the one that is named, else the checkpoint's own."""
    return params.token or capabilities.refine_token or REFINE


def _is_answer(y: Generation) -> bool:
    """Whether an attempt came to its end, and said something."""
    return y.complete and bool(y.text)


def _surest(latest: dict[int, Attempt]) -> Generation:
    """What the client gets if a limit ends the run now: a complete attempt before a cut one, then the surest."""
    return max(latest.values(), key=lambda one: (one.generation.complete, one.confidence)).generation
