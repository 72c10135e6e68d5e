"""Iterative-deepening sampling (arXiv 2502.05449).

    y = "", T = first budget
    until y is accepted, the rounds are used up, or y is as long as it may be:
        y += what the model says after it, to T tokens in all
        y += a sentence that has the model doubt it
        T *= growth
    n such answers side by side; the answer is the one that most agree on, or that a scorer likes best

The paper leaves open the first budget, the sentence, n, and whether an answer that ended by itself is doubted too:
those are parameters. The last round goes on to the answer's own end, for an answer cut at a budget would be none.

Where the model thinks in tags, the sentence stands before the end of the thought, and what came after that is dropped.
An answer that ended at one of the client's stop strings is always accepted. Penalties count the tokens of a round.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from pydantic import Field, field_validator
from typing_extensions import override

from strategies.answers import AnswerKind
from strategies.base import Answer, Event, InvalidTask, Note, Params, Strategy, Task, Thought, require_samples_differ
from strategies.engine import Engine, Generation, Sampling
from strategies.iterative_deepening.doubt import Doubt
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

    def budget(self, length: int, most: int) -> int:
        """The first budget of the series that is above so many tokens, or the most that there may be."""
        budget = float(self.first_budget)
        while int(budget) <= length and budget < most:
            budget *= self.growth
        return min(int(budget), most)


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

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        grown: dict[int, Generation] = {}
        samplings = [self._sampling(task, 0, Generation(branch=i)) for i in range(self.params.samples)]
        first = engine.sample(task.prompt, samplings, role="attempt")
        async for event in side_by_side(first, "attempt", lambda y: self._deepen(task, engine, y, grown)):
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
        p, branch = self.params, y.branch
        doubt = Doubt(p.trigger, engine, p.think_end)
        round = 0
        while True:
            grown[branch] = y
            engine.keep(_best(grown))
            if y.finish_reason == "abort" or len(y.token_ids) >= task.sampling.max_tokens:
                return
            if y.complete and (not p.reopen_finished or y.stop_reason in task.sampling.stop):
                return
            doubted = doubt.cast(y) if round < p.max_rounds else y
            if len(doubted.token_ids) < task.sampling.max_tokens and doubted is not y:
                round += 1
                engine.rounds = max(engine.rounds, round)
                data = {
                    "round": round,
                    "tokens": len(y.token_ids),
                    "dropped": len(y.token_ids) + len(doubt.token_ids) - len(doubted.token_ids),
                    "finished": y.complete,
                }
                yield Note("trigger", f"doubted after {len(y.token_ids)} tokens", data, branch=branch, role="attempt")
                yield Thought(p.trigger, "attempt", branch)
            elif y.complete:
                return
            else:
                doubted = y
            call = engine.call(
                task.prompt + doubted.token_ids,
                self._sampling(task, round, doubted),
                role="attempt",
                branch=branch,
                continues=doubted,
            )
            try:
                async for piece in call:
                    yield Thought(piece.text, "attempt", branch)
            except Exhausted:
                # The others may have what this one lacks.
                return
            y = doubted + call.result

    def _sampling(self, task: Task, round: int, y: Generation) -> Sampling:
        """Of the call that continues an answer to its next budget; to its end if it is doubted no more."""
        length, most = len(y.token_ids), task.sampling.max_tokens
        budget = self.params.budget(length, most) if round < self.params.max_rounds else most
        return task.sampling_for(
            "attempt",
            round=round,
            branch=y.branch,
            max_tokens=budget - length,
            min_tokens=min(max(task.sampling.min_tokens - length, 0), budget - length),
            logprobs=self._logprobs(task),
        )

    def _logprobs(self, task: Task) -> int | None:
        if self.params.aggregate == VOTE:
            return task.sampling.logprobs
        return max(scorer_of(self.params.aggregate).likeliest, task.sampling.logprobs or 0)

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
