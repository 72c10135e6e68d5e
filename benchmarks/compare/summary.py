"""What arms come to: numbers for the report, by themselves and beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from benchmarks.compare import frontier
from benchmarks.compare.outcomes import KINDS, Counted, Done
from benchmarks.metrics import METRICS, Comparison, Interval, Refined
from benchmarks.stats import quantile

SHARES = {"p50": 0.5, "p95": 0.95}


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds at the median and at the 95th percentile, None where there were none."""

    p50: float | None
    p95: float | None

    @classmethod
    def of(cls, seconds: Sequence[float | None]) -> "Times":
        """Of those that are known."""
        known = [one for one in seconds if one is not None]
        return cls(*(quantile(known, share) if known else None for share in SHARES.values()))


@dataclass(frozen=True, slots=True)
class Summary:
    """What one arm comes to.

    Attributes:
        label: of the arm.
        k: answers to an item.
        items: with all of their answers; metrics are of these.
        partial: items that lack answers.
        metrics: by name: avg@k, cons@k, pass@k, for 1, 2, 4 ... and k; none where no item is complete.
        refined: what became of first answers, where there were any.
        point: accuracy and tokens.
        beside: beside self-consistency at as many tokens.
        told: tokens of an answer by kind as responses tell them, means; None where one does not.
        counted: tokens told beside tokens counted.
        latency: to the last byte.
        first_thought: to the first thought.
        first_answer: to the first text of the answer.
        per_second: requests.
        cut: answers that came to no end of their own.
        empty: answers that say nothing.
        errors: how many requests failed, by what was said.
        busy: how often the server was too busy.
    """

    label: str
    k: int
    items: int
    partial: int
    metrics: Mapping[str, Interval]
    refined: Refined | None
    point: frontier.Point | None
    beside: frontier.Beside | None
    told: Mapping[str, float | None]
    counted: Counted
    latency: Times
    first_thought: Times
    first_answer: Times
    per_second: float | None
    cut: int
    empty: int
    errors: Mapping[str, int]
    busy: int

    @property
    def accuracy(self) -> Interval | None:
        """avg@k."""
        return self.metrics.get(f"avg@{self.k}")

    @classmethod
    def of(cls, done: Done, k: int, plain: frontier.Answers | None) -> "Summary":
        """Of what an arm did, with the answers of the plain one."""
        answers = done.answers
        judged = [[one.judged for one in given] for given in done.outcomes.values()]
        metrics = {
            f"{name}@{j}": Interval.of([metric(given, j) for given in judged])
            for name, metric in METRICS.items()
            for j in steps(k)
            if judged
        }
        seconds = sum(block["seconds"] for block in done.blocks)
        return cls(
            done.label,
            k,
            len(done.outcomes),
            len(done.partial),
            metrics,
            Refined.of([one.judged for one in answers]),
            frontier.point(done.outcomes),
            None if plain is None or plain is done.outcomes else frontier.beside(done.outcomes, plain),
            {kind: _mean([one.told[kind] for one in answers]) for kind in KINDS},
            done.counted,
            Times.of([one.seconds for one in answers]),
            Times.of([one.first_thought for one in answers]),
            Times.of([one.first_answer for one in answers]),
            sum(block["requests"] for block in done.blocks) / seconds if seconds else None,
            sum(one.cut for one in answers),
            sum(one.empty for one in answers),
            done.errors,
            done.busy,
        )


def steps(k: int) -> list[int]:
    """Numbers of answers for which metrics are shown: 1, 2, 4 ... and k."""
    return sorted({k, *(2**i for i in range(k.bit_length()) if 2**i < k)})


@dataclass(frozen=True, slots=True)
class Pair:
    """Two arms on the items that both answered."""

    ours: str
    theirs: str
    items: int
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Result:
    """All numbers of a comparison.

    Attributes:
        suite: that was asked.
        items: of it.
        arms: in their order.
        plain: the label of the arm that the curve is made of.
        curve: self-consistency, made of the plain arm's answers.
        pairs: of arms, each of the two that stands later beside the earlier one.
    """

    suite: str
    items: int
    arms: Sequence[Summary]
    plain: str | None
    curve: Sequence[frontier.Point]
    pairs: Sequence[Pair]

    @classmethod
    def of(cls, suite: str, items: int, done: Sequence[Done], k: Mapping[str, int], plain: str | None) -> "Result":
        """Of what all arms did, with the number of answers that each gives to an item."""
        base = next((one.outcomes for one in done if one.label == plain), None)
        arms = [Summary.of(one, k[one.label], base) for one in done]
        pairs = [pair for theirs, ours in combinations(done, 2) if (pair := _pair(ours, theirs)) is not None]
        return cls(suite, items, arms, plain, frontier.curve(base) if base else [], pairs)

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON has values."""
        return asdict(self)


def _pair(ours: Done, theirs: Done) -> Pair | None:
    shared = [item for item in ours.outcomes if item in theirs.outcomes]
    if not shared:
        return None
    first, second = ([[one.judged for one in done.outcomes[item]] for item in shared] for done in (ours, theirs))
    return Pair(ours.label, theirs.label, len(shared), Comparison.of(first, second))


def _mean(values: Sequence[int | None]) -> float | None:
    known = [one for one in values if one is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
