"""Self-Refine (Madaan et al. 2023, arXiv 2303.17651), with the defaults that later studies ask for.

    y0 = answer(x);  f_t = feedback(x, y0, f0 .. y_t);  y_{t+1} = refine(x, y0, f0 .. y_t, f_t)

Deviations from the paper: 1 round by default instead of up to 4, since intrinsic feedback stops helping after one or
two; feedback is checked criterion by criterion where the request gives criteria; the best draft that was checked is
kept, not the last one.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from typing_extensions import override

from strategies.base import Answer, Event, InvalidTask, Note, Params, Strategy, Task, Thought
from strategies.engine import Engine, Generation, Message
from strategies.sampling import Role
from strategies.scores import mean_logprob
from strategies.self_refine.feedback import Verdict, ask_for_feedback, ask_for_revision, read_feedback
from strategies.session import Session


class SelfRefineParams(Params):
    """Self-Refine, arXiv 2303.17651."""

    rounds: int = Field(1, ge=1, le=8, description="Revisions at most.")
    criteria: tuple[str, ...] = Field((), max_length=32, description="What a good answer fulfils.")
    keep: Literal["best", "last"] = Field(
        "best", description="best: the draft whose check found least, then the likeliest; last: the newest draft."
    )
    stop: Literal["no_fault", "never"] = Field(
        "no_fault", description="no_fault: end once a critique finds nothing; never: use all rounds."
    )
    critique_tokens: int = Field(256, ge=16, le=8192, description="Tokens of one critique at most.")


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer, and what its critique made of it."""

    round: int
    generation: Generation
    verdict: Verdict | None = None

    def rank(self) -> tuple[bool, float, float]:
        """Complete before cut, then the share of criteria met, then the mean log-probability of a token."""
        met = self.verdict.met if self.verdict is not None else 0.0
        return self.generation.complete, met, mean_logprob(self.generation)


class SelfRefine(Strategy):
    """Draft, criticise, revise, in one growing conversation: each call's prompt begins with the one before.

    With tools it does not: a critique is asked for without them, and they stand at the front of a prompt.
    """

    name = "self_refine"
    summary = "Drafts an answer, criticises it, criterion by criterion if criteria are given, and revises it."
    paper = "arXiv:2303.17651"
    needs = frozenset({"logprobs"})
    Parameters = SelfRefineParams
    params: SelfRefineParams

    @override
    def check(self, task: Task, engine: Engine) -> None:
        if task.continues:
            raise InvalidTask("self_refine cannot continue an assistant message", "continue_final_message")

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        p = self.params
        talk: list[Message] = list(task.messages)
        prompt, drafts = task.prompt, list[Draft]()
        for round in range(p.rounds + 1):
            if round:
                prompt = await engine.render(talk, task.tools)
            last = round == p.rounds
            role: Role = "revision" if round else "draft"
            call = engine.call(
                prompt, task.sampling_for(role, round=round, logprobs=_logprobs(task)), role=role, branch=round
            )
            async for piece in call:
                yield Answer(piece) if last and p.keep == "last" else Thought(piece.text, role, round)
            engine.rounds = round
            if last and p.keep == "last":
                return
            draft = Draft(round, call.result)
            engine.keep(self._choice([*drafts, draft]).generation)

            talk += [{"role": "assistant", "content": draft.generation.text}, ask_for_feedback(p.criteria)]
            sampling = task.sampling_for("critique", round=round, branch=1, max_tokens=p.critique_tokens, logprobs=None)
            critique = engine.call(await engine.render(talk), sampling, role="critique", branch=round)
            async for piece in critique:
                yield Thought(piece.text, "critique", round)
            feedback = critique.result.text
            verdict = read_feedback(feedback, p.criteria)
            drafts.append(Draft(round, draft.generation, verdict))
            engine.keep(self._choice(drafts).generation)
            yield Note("critique", verdict.summary, {"round": round, "met": verdict.met, "faults": verdict.faults})
            if verdict.passed and p.stop == "no_fault":
                yield Note("stop", "the critique found no fault", {"reason": "no_fault"})
                break
            talk += [{"role": "assistant", "content": feedback}, ask_for_revision()]

        chosen = self._choice(drafts)
        yield Note("kept", f"draft {chosen.round} of {len(drafts)}", {"round": chosen.round, "drafts": len(drafts)})
        yield Answer.of(chosen.generation)

    def _choice(self, drafts: list[Draft]) -> Draft:
        """The draft that is the answer if nothing more comes. Of equals the newest."""
        if self.params.keep == "last":
            return drafts[-1]
        return max(drafts, key=lambda draft: (*draft.rank(), draft.round))


def _logprobs(task: Task) -> int:
    """The draft's own log-probabilities rank it; the client may have asked for more than that."""
    return task.sampling.logprobs or 0
