"""Iterative-deepening sampling (arXiv 2502.05449).

    y = "", T = first budget
    until y is accepted, the rounds are used up, or T is all that y may be:
        y += what the model says after it, to T tokens in all
        y += a sentence that has the model doubt it
        T *= growth
    n such answers side by side; the answer is the one that most agree on, or that a scorer likes best

The paper leaves open the first budget, the sentence, n, and whether an answer that ended by itself is doubted too:
those are parameters. The last round goes on to the answer's own end, for an answer cut at a budget would be none. T
grows on where it would leave no room behind the sentence.

Where the model thinks in tags, the sentence stands before the end of the thought, and what came after that is dropped:
a round then makes up to T tokens anew, all rounds together no more than the sum of their budgets. An answer that ended
at one of the client's stop strings is always accepted, and where the sentence would make one it is not doubted.
Penalties count the tokens of a round. T counts the sentences too; without a prefix cache, what a call computes again is
below max_tokens * growth / (growth - 1) and a sentence a round, in all calls together.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Self

from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from strategies.answers import AnswerKind
from strategies.base import Answer, Event, InvalidTask, Note, Params, Strategy, Task, Thought, require_samples_differ
from strategies.engine import Engine, Generation, Sampling
from strategies.iterative_deepening.doubt import Doubt
from strategies.iterative_deepening.seam import Seam, crossing
from strategies.merge import side_by_side
from strategies.scores import SCORERS, Scorer, require_scorer, scorer_of
from strategies.session import Exhausted, Session
from strategies.vote import vote_among

VOTE = "vote"


class IterativeDeepeningParams(Params):
    """Iterative-deepening sampling, arXiv 2502.05449."""

    first_budget: int = Field(256, ge=1, le=65536, description="Tokens of an answer after which it is first doubted.")
    growth: float = Field(2.0, gt=1, le=16, description="gamma, what the budget grows by from round to round.")
    max_rounds: int = Field(3, ge=0, le=16, description="Times that an answer is doubted at most.")
    trigger: str = Field(
        "\n\nWait, I may have made mistakes. I should rethink this from scratch.\n\n",
        min_length=1,
        max_length=2000,
        description="The sentence that doubts.",
    )
    reopen_finished: bool = Field(False, description="Doubt answers that have ended by themselves, too.")
    think_end: str = Field(
        "</think>", min_length=1, max_length=100, description="What ends a thought; the sentence stands before it."
    )
    samples: int = Field(4, ge=1, le=64, description="Answers side by side.")
    aggregate: str = Field(
        VOTE,
        description=f"What picks the answer: {VOTE}, or {', '.join(sorted(SCORERS))}.",
        examples=[VOTE, *sorted(SCORERS)],
    )
    answer: AnswerKind = Field("auto", description="What a vote compares, as in self_consistency.")

    @field_validator("aggregate")
    @classmethod
    def _known(cls, name: str) -> str:
        return name if name == VOTE else require_scorer(name)

    @model_validator(mode="after")
    def _doubts_a_thought_within(self) -> Self:
        if self.think_end in self.trigger:
            raise ValueError("the trigger holds think_end, so it would end the thought that it stands in")
        return self

    def grown(self, budget: float, length: int) -> float:
        """T after one round, or as many as it takes to leave room behind so many tokens."""
        budget *= self.growth
        if budget < length + 1:
            # At once: growth may be so small that it takes more rounds than there is time to count.
            budget *= self.growth ** math.ceil(math.log((length + 1) / budget) / math.log(self.growth))
        return max(budget, length + 1)


class IterativeDeepening(Strategy):
    """Each answer grows in calls that continue it by token ids; the prefix cache has all that was there before."""

    name = "iterative_deepening"
    summary = "Lets each answer grow, doubting it at growing budgets; the answer that most agree on wins."
    paper = "arXiv:2502.05449"
    needs = frozenset({"tokens", "logprobs"})
    Parameters = IterativeDeepeningParams
    params: IterativeDeepeningParams

    @override
    def check(self, task: Task, engine: Engine) -> None:
        require_samples_differ(task, self.params.samples)
        if task.sampling.grammar is not None:
            raise InvalidTask(
                "iterative_deepening writes into the answer what no grammar allows; ask without response_format and "
                "tool_choice",
                "response_format",
            )
        if inside := [stop for stop in task.sampling.stop if stop in self.params.trigger]:
            raise InvalidTask(
                f"the trigger of iterative_deepening holds the stop string {inside[0]!r}; choose another trigger",
                "stop",
            )

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        grown: dict[int, Generation] = {}
        first = self._first(task)
        samplings = [self._sampling(task, engine, 0, Generation(branch=i), first) for i in range(self.params.samples)]
        call = engine.sample(task.prompt, samplings, role="attempt")
        async for event in side_by_side(engine, call, "attempt", lambda y: self._deepen(task, engine, y, grown)):
            yield event
        results = [grown[branch] for branch in sorted(grown)]
        if self.params.aggregate == VOTE:
            vote = await vote_among(results, self.params.answer, engine)
            winner = vote.winner()
            shares = {group.answer: group.votes for group in vote.groups}
            yield Note("result", f"{winner.votes} of {vote.cast}: {winner.answer}", {"votes": shares})
            chosen = winner.first
        else:
            scores = [await self._score(result, engine) for result in results]
            chosen = max(results, key=lambda y: (y.complete, bool(y.token_ids), scores[results.index(y)]))
            for result, score in zip(results, scores, strict=True):
                data = {"score": score, "scorer": self.params.aggregate, "complete": result.complete}
                yield Note("score", f"{score:.3f}", data, branch=result.branch, role="attempt")
        yield Answer.of(chosen)

    async def _deepen(
        self, task: Task, engine: Session, y: Generation, grown: dict[int, Generation]
    ) -> AsyncGenerator[Event, None]:
        """All further rounds of one answer."""
        p, branch, most = self.params, y.branch, task.sampling.max_tokens
        doubt, round = Doubt(p.trigger, engine, p.think_end), 0
        budget, end = float(p.first_budget), self._first(task)
        while True:
            if y.complete or branch not in grown or not grown[branch].complete:
                grown[branch] = y  # A complete answer stays the answer until there is another.
            engine.keep(_best(grown))
            if y.complete and (not p.reopen_finished or y.stop_reason in task.sampling.stop):
                return
            if not y.complete and (y.finish_reason == "abort" or len(y.token_ids) < end):
                return  # It ended at a limit, not at its budget.
            doubted = doubt.cast(y) if round < p.max_rounds and end < most else None
            if doubted is not None and self._fits(doubted, y, task):
                budget = p.grown(budget, len(doubted.token_ids))
                end = most if round + 1 == p.max_rounds else min(int(budget), most)
            elif y.complete or end == most:
                return
            else:
                doubted, end = None, most
            round += 1
            before = doubted or y
            sampling = self._sampling(task, engine, round, before, end)
            prompt = task.prompt + before.token_ids
            call = engine.call(prompt, sampling, role="attempt", branch=branch, continues=before)
            seam, said = Seam(before, task.sampling, engine), False
            try:
                async for piece in call:
                    if doubted is not None and piece.token_ids and not said:
                        engine.rounds = max(engine.rounds, round)
                        yield self._trigger(round, y, doubted, len(prompt) - piece.cached_tokens, doubt)
                        yield Thought(p.trigger, "attempt", branch)
                    said = said or bool(piece.token_ids)
                    yield Thought(piece.text, "attempt", branch)
                    if seam.stops(piece):
                        await call.stop()
            except Exhausted:
                return  # The others may have what this one lacks.
            if not said:
                return  # It was stopped before it could say anything.
            y = seam.join(call.result)

    def _fits(self, doubted: Generation, y: Generation, task: Task) -> bool:
        """Whether there is room behind the sentence, and no stop string of it and what stands before it."""
        length, stops = len(doubted.token_ids), task.sampling.stop
        return length < task.sampling.max_tokens and crossing(doubted.text, len(y.text), stops) is None

    def _trigger(self, round: int, y: Generation, doubted: Generation, recomputed: int, doubt: Doubt) -> Note:
        length = len(y.token_ids)
        data = {
            "round": round,
            "tokens": length,
            "dropped": length + len(doubt.token_ids) - len(doubted.token_ids),
            "finished": y.complete,
            "recomputed": recomputed,
        }
        return Note("trigger", f"doubted after {length} tokens", data, y.branch, "attempt")

    def _first(self, task: Task) -> int:
        """Tokens of the first round."""
        most = task.sampling.max_tokens
        return min(self.params.first_budget, most) if self.params.max_rounds else most

    def _sampling(self, task: Task, engine: Session, round: int, y: Generation, end: int) -> Sampling:
        """Of the call that makes an answer so many tokens long."""
        length = len(y.token_ids)
        return task.sampling_for(
            "attempt",
            round=round,
            branch=y.branch,
            max_tokens=end - length,
            min_tokens=min(max(task.sampling.min_tokens - length, 0), end - length),
            logprobs=self._logprobs(task, engine),
        )

    def _logprobs(self, task: Task, engine: Session) -> int | None:
        if self.params.aggregate == VOTE:
            return task.sampling.logprobs
        seen = min(scorer_of(self.params.aggregate).likeliest, engine.capabilities.max_logprobs)
        return max(seen, task.sampling.logprobs or 0)

    async def _score(self, y: Generation, engine: Session) -> float:
        """The mean over the model's own tokens."""
        scorer: Scorer = scorer_of(self.params.aggregate)
        total, count = 0.0, 0
        for position, (logprobs, token) in enumerate(zip(y.logprobs or (), y.token_ids, strict=False)):
            if position % 100 == 0:
                await asyncio.sleep(0)  # A long answer's positions at once would hold up the event loop.
            if logprobs:
                total += scorer.token(logprobs, token, engine.capabilities.vocab_size)
                count += 1
        return total / max(count, 1)


def _best(grown: dict[int, Generation]) -> Generation:
    """What the client gets if a limit ends the run now: a complete answer before a cut one, then the longest."""
    return max(grown.values(), key=lambda y: (y.complete, len(y.token_ids), -y.branch))
