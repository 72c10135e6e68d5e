"""Medians, quantiles and bootstrap intervals of small samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values with their extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Median, minimum and maximum of one value or more."""
        return cls(float(np.median(values)), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of paired ratios, with an interval that says how well it is known.

    Attributes:
        value: the median.
        low: lower end of the bootstrap interval.
        high: its upper end.
        pairs: the ratios themselves, a round each.
    """

    value: float
    low: float
    high: float
    pairs: tuple[float, ...]

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> "Ratio":
        """Divides round by round, so that what slows both down in a round cancels out; then resamples the rounds."""
        pairs = np.array(ours, dtype=float) / np.array(theirs, dtype=float)
        samples = np.random.default_rng(seed).choice(pairs, (RESAMPLES, len(pairs)))
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(np.median(samples, axis=1), [tail, 1 - tail])
        return cls(float(np.median(pairs)), float(low), float(high), tuple(float(pair) for pair in pairs))


def wilson(share: float, count: int) -> tuple[float, float]:
    """The interval of a share seen in so many trials (Wilson's, which has a width at 0 and 1 too)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(float(middle - half), 0.0), min(float(middle + half), 1.0)


def mcnemar(gained: int, lost: int) -> float:
    """How likely a split as uneven is where gains and losses are equally likely: the exact test, two-sided."""
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**changed))


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed, between 0 for the least and 1 for the greatest."""
    return float(np.quantile(values, share))


def profile(values: Sequence[float], points: int = 201) -> list[float]:
    """Evenly spaced quantiles, least to greatest: a distribution in little room."""
    return [round(float(value), 3) for value in np.quantile(values, np.linspace(0, 1, points))]
