"""Best-of-n: several answers side by side, the one that a scorer likes best. No verifier model: see strategies.scores.

Self-certainty as the scorer is arXiv 2502.18581; mean log-probability is the baseline there.
"""

from collections.abc import AsyncIterator

from pydantic import Field, field_validator
from typing_extensions import override

from strategies.base import Answer, Event, Note, Params, Strategy, Task, Thought, require_samples_differ
from strategies.engine import Engine
from strategies.scores import SCORERS, require_scorer, scorer_of
from strategies.session import Session


class BestOfNParams(Params):
    """Best-of-n with the model's own confidence, arXiv 2502.18581."""

    samples: int = Field(4, ge=1, le=64, description="Answers side by side.")
    scorer: str = Field(
        "self_certainty", description=f"What picks the answer: {', '.join(sorted(SCORERS))}.", examples=sorted(SCORERS)
    )

    _known = field_validator("scorer")(require_scorer)


class BestOfN(Strategy):
    """Samples n answers, scores each by its tokens' probabilities, answers with the best complete one."""

    name = "best_of_n"
    summary = "Samples several answers side by side and keeps the one the model itself is surest of."
    paper = "arXiv:2502.18581"
    needs = frozenset({"logprobs"})
    Parameters = BestOfNParams
    params: BestOfNParams

    @override
    def check(self, task: Task, engine: Engine) -> None:
        require_samples_differ(task, self.params.samples)

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        scorer = scorer_of(self.params.scorer)
        capabilities = engine.capabilities
        seen = max(min(scorer.likeliest, capabilities.max_logprobs), task.sampling.logprobs or 0)
        totals = [0.0] * self.params.samples
        samples = engine.sample(
            task.prompt,
            [task.sampling_for("sample", branch=i, logprobs=seen) for i in range(self.params.samples)],
            role="sample",
        )
        async for piece in samples:
            yield Thought(piece.text, "sample", piece.branch)
            # Scored as it comes: a long answer's thousands of positions at once would hold up the event loop.
            for logprobs, token_id in zip(piece.logprobs or (), piece.token_ids, strict=True):
                if logprobs:  # A server without token routes says nothing of the token that ends an answer.
                    totals[piece.branch] += scorer.token(logprobs, token_id, capabilities.vocab_size)

        results = samples.results
        scores = [totals[r.branch] / max(len(r.token_ids), 1) for r in results]
        best = max(results, key=lambda r: (r.complete, bool(r.token_ids), scores[r.branch]))
        for result in results:
            yield Note(
                "score",
                f"sample {result.branch}: {scores[result.branch]:.3f}",
                {"score": scores[result.branch], "scorer": self.params.scorer, "complete": result.complete},
                branch=result.branch,
                role="sample",
            )
        yield Note("chosen", f"sample {best.branch}", {"branch": best.branch})
        yield Answer.of(best)
