"""Self-consistency (Wang et al. 2022, arXiv 2203.11171): sample several answers, marginalise out the reasoning.

Deviations from the paper: 5 samples by default instead of 40; the vote ends early once no sample that still runs could
change its winner; answers that were cut vote only if no answer came to its end.
"""

from collections.abc import AsyncIterator

from pydantic import Field
from typing_extensions import override

from strategies.answers import AnswerKind
from strategies.base import Answer, Event, Note, Params, Strategy, Task, Thought, require_samples_differ
from strategies.engine import Engine
from strategies.session import Session
from strategies.vote import Vote, vote_among


class SelfConsistencyParams(Params):
    """Self-consistency, arXiv 2203.11171."""

    samples: int = Field(5, ge=1, le=64, description="Answers side by side.")
    answer: AnswerKind = Field(
        "auto",
        description="What is compared. math: the final expression; choice: the final letter; text: all of it; "
        "auto: JSON by value, else the final expression if the answer ends in one, else all of it.",
    )
    early_stop: bool = Field(True, description="Stop the samples that can no longer change the vote.")


class SelfConsistency(Strategy):
    """Votes among answers that were sampled in one engine batch over one shared prompt."""

    name = "self_consistency"
    summary = "Samples several answers side by side and gives the one that most of them agree on."
    paper = "arXiv:2203.11171"
    needs = frozenset()
    Parameters = SelfConsistencyParams
    params: SelfConsistencyParams

    @override
    def check(self, task: Task, engine: Engine) -> None:
        require_samples_differ(task, self.params.samples)

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        p = self.params
        samples = engine.sample(
            task.prompt,
            [task.sampling_for("sample", branch=i, logprobs=task.sampling.logprobs) for i in range(p.samples)],
            role="sample",
        )
        vote, stopped = Vote(p.answer), False
        async for piece in samples:
            if piece.text:
                yield Thought(piece.text, "sample", piece.branch)
            if piece.finish_reason == "stop":
                sample = samples.results[piece.branch]
                engine.keep(vote.winner().first if vote.groups else sample)
                group = await engine.bounded(vote.add(sample))
                yield Note(
                    "vote",
                    f"sample {piece.branch}: {group.answer}",
                    {"answer": group.answer, "votes": group.votes},
                    branch=piece.branch,
                    role="sample",
                )
                running = sum(result.finish_reason == "abort" for result in samples.results)
                if p.early_stop and not stopped and running and vote.decided(running):
                    stopped = True
                    yield Note("stop", f"decided with {running} samples still running", {"reason": "vote_decided"})
                    await samples.stop()

        if not vote.groups:
            engine.keep(samples.results[0])
            vote = await vote_among(samples.results, p.answer, engine)
        winner = vote.winner()
        shares = {group.answer: group.votes for group in vote.groups}
        yield Note("result", f"{winner.votes} of {vote.cast}: {winner.answer}", {"votes": shares})
        yield Answer.of(winner.first)
