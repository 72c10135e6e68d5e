"""What judged answers come to: accuracy over k answers in three ways, and what refining did to first ones.

Of each problem an arm gives n answers. All metrics are means over problems of a value from 0 to 1, so that two arms can
be compared problem by problem. What an arm holds for its answer at the end is what counts: an answer that was right on
the way and is wrong at the end is wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from benchmarks.stats import CONFIDENCE, RESAMPLES, mcnemar

Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer, as far as metrics need it.

    Attributes:
        right: whether it is.
        vote: what it comes to, alike for alike answers; None for one that comes to nothing, such as an empty one.
        first_right: whether the first attempt was right, where the arm showed one before its answer.
    """

    right: bool
    vote: str | None
    first_right: bool | None = None


def avg_at(answers: Sequence[Judged], k: int) -> float:
    """avg@k: the share of right ones among the first k."""
    return sum(one.right for one in _first(answers, k)) / k


def pass_at(answers: Sequence[Judged], k: int) -> float:
    """pass@k: how likely k of the answers, drawn without putting back, hold a right one (arXiv 2107.03374)."""
    _first(answers, k)
    n = len(answers)
    wrong = sum(not one.right for one in answers)
    return 1 - comb(wrong, k) / comb(n, k)


def cons_at(answers: Sequence[Judged], k: int) -> float:
    """cons@k: whether most of the first k say what is right.

    Of several votes with as many voices each is as likely, so that the order of the answers decides nothing. Those
    that come to nothing have no voice, unless there is no other: then nothing was said, which is wrong.
    """
    voices: dict[str, list[bool]] = {}
    for one in _first(answers, k):
        if one.vote is not None:
            voices.setdefault(one.vote, []).append(one.right)
    most = max(map(len, voices.values()), default=0)
    tied = [rights for rights in voices.values() if len(rights) == most]
    return sum(sum(rights) / len(rights) for rights in tied) / len(tied) if tied else 0.0


def _first(answers: Sequence[Judged], k: int) -> Sequence[Judged]:
    if not 1 <= k <= len(answers):
        raise ValueError(f"{k} of {len(answers)} answers")
    return answers[:k]


@dataclass(frozen=True, slots=True)
class Refined:
    """What became of first answers, as shares of all answers that had one.

    Attributes:
        count: of answers with a first one.
        before: the share of right first ones.
        after: the share of right ones in the end.
        gained: of all, those that became right.
        lost: of all, those that became wrong.
        confidence_level: CL, of the right first ones, those that stayed right; None where none was right.
        critique_score: CS, of the wrong first ones, those that became right; None where none was wrong.
    """

    count: int
    before: float
    after: float
    gained: float
    lost: float
    confidence_level: float | None
    critique_score: float | None

    @classmethod
    def of(cls, answers: Sequence[Judged]) -> "Refined | None":
        """Of the answers of all problems; None if no answer had a first one."""
        pairs = [(one.first_right, one.right) for one in answers if one.first_right is not None]
        if not pairs:
            return None
        n = len(pairs)
        kept = sum(first and last for first, last in pairs)
        before, after = sum(bool(first) for first, _ in pairs), sum(last for _, last in pairs)
        gained, lost = after - kept, before - kept
        return cls(
            n,
            before / n,
            after / n,
            gained / n,
            lost / n,
            kept / before if before else None,
            gained / (n - before) if n > before else None,
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over problems, with the interval that CONFIDENCE of its bootstrap resamples fall into."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float] | Numbers, seed: int = 0) -> "Interval":
        """Of one value a problem, one problem or more."""
        numbers = np.asarray(values, dtype=float)
        draws = np.random.default_rng(seed).integers(len(numbers), size=(RESAMPLES, len(numbers)))
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(numbers[draws].mean(1), [tail, 1 - tail])
        return cls(float(numbers.mean()), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm beside another, on the same problems.

    Attributes:
        difference: of the means; its interval is that of problems resampled for both at once.
        gained: problems that the first arm's first answer has right, and the other's wrong.
        lost: the other way round.
        p: McNemar's exact test of the two counts, two-sided.
    """

    difference: Interval
    gained: int
    lost: int
    p: float

    @classmethod
    def of(
        cls, ours: Sequence[Sequence[Judged]], theirs: Sequence[Sequence[Judged]], k: int | None = None
    ) -> "Comparison":
        """By the first k answers to each problem, by default all of them, in the same order of problems."""
        pairs = list(zip(ours, theirs, strict=True))
        differences = [avg_at(our, k or len(our)) - avg_at(their, k or len(their)) for our, their in pairs]
        gained = sum(our[0].right and not their[0].right for our, their in pairs)
        lost = sum(their[0].right and not our[0].right for our, their in pairs)
        return cls(Interval.of(differences), gained, lost, mcnemar(gained, lost))


METRICS: dict[str, Callable[[Sequence[Judged], int], float]] = {"avg": avg_at, "cons": cons_at, "pass": pass_at}
"""By the name that stands before the k."""
