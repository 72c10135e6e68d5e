"""Accuracy against tokens: every arm beside self-consistency at as many.

Self-consistency is made of the k answers that the plain arm gave to each item: at j samples it is right as often as
cons@j says, and takes j times the tokens of one. Between j and j + 1 samples it is a mixture: to ask the one for some
items and the other for the rest has the mean of both, accuracy and tokens alike. So an arm is compared with the curve
where it takes as many tokens, and both are resampled by the same items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.compare.outcomes import Outcome
from benchmarks.metrics import Interval, cons_at
from benchmarks.stats import CONFIDENCE, RESAMPLES

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Answers = Mapping[str, Sequence[Outcome]]
"""To each item, by its id."""


@dataclass(frozen=True, slots=True)
class Point:
    """A mean over items.

    Attributes:
        tokens: completion tokens that the engine generated for an answer.
        accuracy: the share of right answers.
    """

    tokens: float
    accuracy: Interval


@dataclass(frozen=True, slots=True)
class Beside:
    """An arm beside self-consistency at as many tokens.

    Attributes:
        difference: of accuracies, the arm's less the curve's.
        samples: at which the curve takes as many, 1 and more.
        items: that both answered.
        reach: whether the arm takes as many tokens as some point of the curve, or is compared with its end: with one
            sample where it takes less, with all where it takes more.
    """

    difference: Interval
    samples: float
    items: int
    reach: Literal["within", "less", "more"]


def point(answers: Answers) -> Point | None:
    """Of an arm, each answer by itself; None where tokens are not known or nothing is answered."""
    tokens = _tokens(answers)
    if tokens is None:
        return None
    return Point(float(tokens.mean()), Interval.of(_accuracy(answers)))


def curve(answers: Answers) -> list[Point]:
    """Self-consistency at 1 to k samples; empty where tokens are not known or nothing is answered."""
    tokens = _tokens(answers)
    if tokens is None:
        return []
    votes = _votes(answers)
    return [Point(float(tokens.mean() * (j + 1)), Interval.of(votes[:, j])) for j in range(votes.shape[1])]


def beside(arm: Answers, plain: Answers, seed: int = 0) -> Beside | None:
    """An arm beside the curve of the plain one, on the items that both answered; None where tokens are not known."""
    shared = [item for item in arm if item in plain]
    ours, theirs = {item: arm[item] for item in shared}, {item: plain[item] for item in shared}
    spent, once = _tokens(ours), _tokens(theirs)
    if spent is None or once is None or not once.sum():
        return None
    votes = _votes(theirs)
    columns = np.column_stack([_accuracy(ours), spent, once, votes])
    n, k = len(shared), votes.shape[1]
    # How often each item is drawn: [resamples, n], a mean of each column a resample.
    drawn = np.random.default_rng(seed).multinomial(n, [1 / n] * n, RESAMPLES) / n
    differences = [_difference(row) for row in drawn @ columns]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    means = columns.mean(0)
    samples = float(means[1] / means[2])
    reach: Literal["within", "less", "more"] = "less" if samples < 1 else "more" if samples > k else "within"
    return Beside(Interval(_difference(means), float(low), float(high)), samples, n, reach)


def _difference(means: Numbers) -> float:
    """Of the means of an arm's accuracy and tokens, the plain arm's tokens, and votes of 1 to k samples, [3 + k]."""
    accuracy, spent, once, *votes = means
    prices = once * np.arange(1, len(votes) + 1)
    return float(accuracy - np.interp(spent, prices, votes))


def _accuracy(answers: Answers) -> Numbers:
    """Of each item, [n]."""
    return np.array([np.mean([one.judged.right for one in given]) for given in answers.values()], dtype=float)


def _votes(answers: Answers) -> Numbers:
    """cons@1 to cons@k of each item, [n, k]."""
    judged = [[one.judged for one in given] for given in answers.values()]
    return np.array([[cons_at(given, j + 1) for j in range(len(given))] for given in judged], dtype=float)


def _tokens(answers: Answers) -> Numbers | None:
    """Of an answer to each item, [n]; None where one does not tell, or there are none."""
    found = [[one.tokens for one in given] for given in answers.values()]
    if not found or any(one is None for given in found for one in given):
        return None
    return np.array([np.mean(given) for given in found], dtype=float)  # type: ignore[arg-type]
