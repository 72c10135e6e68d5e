"""TT-SI, test-time self-improvement (arXiv 2510.07841), with TT-D and TT-ICL.

    gap = p(1) - p(2) of the actions that the model may take       relative softmax scoring
    gap >= threshold: answer with the served weights
    else: the model writes K pairs like the request; an adapter is fitted to them; it answers, and is dropped

`self` is TT-SI; in `teacher`, TT-D, the operator's stronger model writes the pairs; in `in_context`, TT-ICL, they go
into the prompt, and nothing is trained.

The paper's actions are tools. A request without tools is judged by sampled answers, and pairs are questions with
answers: an extension of ours. Pairs are drawn at a temperature of their own, for those of no use are drawn anew.
"""

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Literal

from pydantic import Field
from typing_extensions import override

from strategies.answers import AnswerKind
from strategies.base import Answer, Event, InvalidTask, Note, Params, Strategy, Task, Thought, require_samples_differ
from strategies.engine import Engine, Generation, NotTaught, NotTrained, Prompt, Training
from strategies.session import Exhausted, Session
from strategies.ttsi.pairs import Pair, PairFormat, example_of
from strategies.ttsi.uncertainty import Certainty, Normalise, of_tools, of_votes, rendered
from strategies.vote import vote_among

PAIR_TOKENS = 400


class TTSIParams(Params):
    """TT-SI, arXiv 2510.07841."""

    mode: Literal["self", "teacher", "in_context"] = Field(
        "self",
        description="self: TT-SI; teacher: TT-D, the operator's other model writes the pairs; in_context: TT-ICL.",
    )
    threshold: float = Field(
        0.95, ge=0, le=1, description="tau: a gap below it is uncertain. 0 adapts to no request, 1 to every one."
    )
    normalise: Normalise = Field(
        "mean",
        description="Of an action's log-probability: mean per token of its name, or sum. The paper leaves it open.",
    )
    samples: int = Field(
        5, ge=2, le=64, description="Answers that judge a request without tools. No part of the paper."
    )
    answer: AnswerKind = Field("auto", description="What those are compared by, as in self_consistency.")
    pairs: int = Field(1, ge=1, le=8, description="K, pairs to learn from.")
    attempts: int = Field(3, ge=1, le=8, description="Times that a pair is asked for, until it is of the right shape.")
    pair_temperature: float = Field(0.7, ge=0, le=2, description="Of the pairs.")
    certain_only: bool = Field(
        False, description="Learn only pairs in which the model, asked, is certain of the very tool; with tools."
    )
    rank: int = Field(8, ge=1, le=64, description="Of the adapter, of all linear layers.")
    alpha: int = Field(16, ge=1, le=256, description="What the adapter adds is scaled by alpha over rank.")
    epochs: int = Field(5, ge=1, le=20, description="Over the pairs, one pair a step.")
    learning_rate: float = Field(1e-4, gt=0, le=0.1, description="The largest.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="Of the learning rate.")
    warmup: float = Field(0.03, ge=0, le=1, description="Share of the steps in which it rises.")
    keep: Literal["drop", "cache"] = Field(
        "drop", description="drop: forget the adapter; cache: the same prompt may find it again."
    )

    def training(self, seed: int | None) -> Training:
        """How the adapter is fitted."""
        return Training(
            self.rank, self.alpha, self.epochs, self.learning_rate, self.schedule, self.warmup, (seed or 0) % 2**32
        )


class TTSI(Strategy):
    """Judges, and adapts only to what it must."""

    name = "ttsi"
    summary = "Adapts its weights to a request it is not sure of, by pairs like it that it writes itself."
    paper = "arXiv:2510.07841"
    needs = frozenset({"tokens", "scores", "grammar"})
    Parameters = TTSIParams
    params: TTSIParams

    @override
    def check(self, task: Task, engine: Engine) -> None:
        p, has = self.params, engine.capabilities.names
        if task.continues:
            raise InvalidTask("ttsi cannot continue an assistant message", "continue_final_message")
        if p.mode != "in_context" and "training" not in has:
            raise InvalidTask(
                "this server trains no adapters, or not on top of the one that `model` names: start it with --training "
                "and name the base model, or ask with mode 'in_context'",
                "strategy",
            )
        if p.mode != "in_context" and p.rank > (most := engine.capabilities.max_adapter_rank):
            raise InvalidTask(
                f"rank {p.rank} is above {most}, the most that this server takes (--max-lora-rank)", "strategy"
            )
        if p.mode == "teacher" and "teacher" not in has:
            raise InvalidTask(
                "this server has no teacher: start it with --teacher-url, or ask with mode 'self'", "strategy"
            )
        if not task.tools:
            require_samples_differ(task, p.samples)
            if p.certain_only:
                raise InvalidTask("certain_only is about tools, and the request has none", "tools")
        if p.certain_only and p.threshold == 1:
            raise InvalidTask("certain_only with threshold 1 would learn nothing: no gap is above it", "strategy")

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        p, unadapted = self.params, engine.adapter
        shown: list[Prompt] = []
        served: Generation | None = None
        certainty: Certainty | None = None
        if not task.tools:
            samplings = [
                task.sampling_for("sample", branch=i, logprobs=task.sampling.logprobs) for i in range(p.samples)
            ]
            call = engine.sample(task.prompt, samplings, role="sample")
            async for piece in call:
                yield Thought(piece.text, "sample", piece.branch)
            served = call.results[0]
            engine.keep(served)
            certainty = of_votes(await vote_among(call.results, p.answer, engine), p.samples)
        try:
            async for event in engine.beforehand(self._prepare(task, certainty, engine, shown)):
                yield event
        except (NotTrained, NotTaught) as reason:
            yield Note("fallback", f"answered with the served weights: {reason}", {"reason": str(reason)})
        if served is not None and engine.adapter is unadapted and not shown:
            # The call below would make it again, of the same seed.
            yield Answer.of(served)
            return
        prompt = shown[0] if shown else task.prompt
        async for piece in engine.call(prompt, task.sampling_for("final"), role="final"):
            yield Answer(piece)

    async def _prepare(
        self, task: Task, certainty: Certainty | None, engine: Session, shown: list[Prompt]
    ) -> AsyncGenerator[Event, None]:
        """The judgement, unless there is one, and what follows from it: an adapter, or a prompt that shows the pairs.
        Raises NotTrained, NotTaught, Exhausted.
        """
        if certainty is None:
            assert task.tools is not None
            certainty = await of_tools(task.messages, task.tools, task.callable_tools, self.params.normalise, engine)
        yield self._told(certainty, task)
        if self._adapts_to(certainty):
            async for event in self._adapt(task, engine, shown):
                yield event

    def _told(self, certainty: Certainty, task: Task) -> Note:
        uncertain = self._adapts_to(certainty)
        data = {
            "gap": certainty.gap,
            "threshold": self.params.threshold,
            "uncertain": uncertain,
            "shares": certainty.shares,
            "by": "tools" if task.tools else "samples, an extension of the paper",
        }
        text = f"{'uncertain' if uncertain else 'certain'} of {certainty.best}: gap {certainty.gap:.3f}"
        return Note("uncertainty", text, data)

    def _adapts_to(self, certainty: Certainty) -> bool:
        return certainty.gap < self.params.threshold or self.params.threshold == 1

    async def _adapt(self, task: Task, engine: Session, shown: list[Prompt]) -> AsyncGenerator[Event, None]:
        """Pairs, and an adapter fitted to them. Raises NotTrained, NotTaught."""
        p, pairs = self.params, list[Pair]()
        keep = self._name_of(task, engine) if p.keep == "cache" and p.mode != "in_context" else None
        if keep is not None and await engine.recall(keep):
            yield Note("adapter", "the one that this prompt had before", {"kept": True})
            return
        form = PairFormat(task.messages, task.callable_tools)
        async for event in self._ask_for_pairs(task, form, engine, pairs):
            yield event
        if not pairs:
            raise NotTrained("no pair is of the right shape")
        if p.mode == "in_context":
            shown.append(await _shown(task, pairs, engine))
            return
        examples = [await example_of(pair, form.before, task.tools, engine) for pair in pairs]
        async for epoch in engine.fit(examples, p.training(task.sampling.seed), keep=keep):
            data = {"epoch": epoch.number, "loss": epoch.loss}
            yield Note("epoch", f"epoch {epoch.number} of {p.epochs}: loss {epoch.loss:.3f}", data)
        yield Note("adapter", f"fitted to {len(pairs)} pairs", {"kept": False})

    async def _ask_for_pairs(
        self, task: Task, form: PairFormat, engine: Session, pairs: list[Pair]
    ) -> AsyncGenerator[Event, None]:
        p, refused, uncertain = self.params, 0, 0
        failure: Exception | None = None
        for attempt in range(p.attempts):
            texts: list[str] = []
            try:
                async for event in self._draw(task, form, engine, attempt, p.pairs - len(pairs), texts):
                    yield event
            except (NotTrained, NotTaught, Exhausted) as error:
                failure = error  # What there is may do.
            for text in texts:
                try:
                    pair = await form.read(text)
                except ValueError:
                    refused += 1
                    continue
                if p.certain_only and not await self._is_certain(pair, form, task, engine):
                    uncertain += 1
                    continue
                pairs.append(pair)
            if failure is not None or len(pairs) == p.pairs:
                break
        if failure is not None and not pairs:
            raise failure
        data = {
            "pairs": len(pairs),
            "refused": refused,
            "uncertain": uncertain,
            "written": [pair.told for pair in pairs],
        }
        yield Note("pairs", f"{len(pairs)} of {p.pairs}, {refused} of another shape, {uncertain} uncertain", data)

    async def _draw(
        self, task: Task, form: PairFormat, engine: Session, attempt: int, missing: int, texts: list[str]
    ) -> AsyncGenerator[Event, None]:
        """Texts that may be pairs."""
        p = self.params
        if p.mode == "teacher":
            for _ in range(missing):
                texts.append(await engine.teach(form.ask(), form.schema, PAIR_TOKENS))
            return
        samplings = [
            task.sampling_for(
                "pair",
                round=attempt + 1,
                branch=i,
                max_tokens=PAIR_TOKENS,
                temperature=p.pair_temperature,
                grammar=engine.grammar(form.schema),
                logprobs=None,
            )
            for i in range(missing)
        ]
        try:
            call = engine.sample(await rendered(form.ask(), None, engine), samplings, role="pair")
            async for piece in call:
                yield Thought(piece.text, "pair", piece.branch)
        except Exception as error:
            if not any(error is failure for failure in engine.failures):
                raise
            # Not every schema of a tool makes a grammar, and not every request leaves room to ask for one like it.
            raise NotTrained(f"no pair can be written: {error}"[:300]) from error
        texts += [result.text for result in call.results]

    async def _is_certain(self, pair: Pair, form: PairFormat, task: Task, engine: Session) -> bool:
        assert task.tools is not None
        asked = pair.messages(form.before)
        certainty = await of_tools(asked, task.tools, task.callable_tools, self.params.normalise, engine)
        return certainty.best == pair.tool and certainty.gap >= self.params.threshold

    def _name_of(self, task: Task, engine: Session) -> str | None:
        """Of the adapter of a request, by all that shapes it; None for one with images or audio, which is not all
        tokens.
        """
        beside = sorted(task.prompt.attachments.items())
        if any(not isinstance(value, str) for _, value in beside):
            return None
        tools = [tool["function"]["name"] for tool in task.callable_tools]
        decoders = engine.decoded(task.sampling_for("pair", max_tokens=1)).extra
        parts = [task.prompt.token_ids, beside, tools, task.sampling.seed, self.params.model_dump(mode="json")]
        return hashlib.sha256(json.dumps([*parts, repr(decoders)]).encode()).hexdigest()


async def _shown(task: Task, pairs: list[Pair], engine: Session) -> Prompt:
    """The conversation with the pairs before its first question. Raises NotTrained if the context has no room."""
    form = PairFormat(task.messages, task.callable_tools)
    turns = [message for pair in pairs for message in (*pair.messages(()), pair.answer)]
    prompt = await rendered([*form.before, *turns, *task.messages[len(form.before) :]], task.tools, engine)
    room = engine.capabilities.max_model_len - len(task.prompt)
    if len(prompt) - len(task.prompt) > room // 2:
        raise NotTrained("the pairs would leave too little of the context for the answer")
    return prompt
