"""What outcomes come to: accuracies, flips, AUROC of the confidence, votes at so many samples."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.stats import wilson
from strategies.answers import extract_answer, find_same

RESAMPLES = 2000
Numbers = np.ndarray[Any, np.dtype[np.float64]]
Attempts = Sequence[Mapping[str, Any]]
"""Of one branch, in order."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A number and its interval of 95%: of a share Wilson's, else by resampling problems."""

    value: float
    low: float
    high: float

    @classmethod
    def share(cls, values: Sequence[bool] | Any) -> "Measure":
        """Of the true ones, one value a problem."""
        truth = np.asarray(values, dtype=bool)
        if not len(truth):
            return cls(float("nan"), float("nan"), float("nan"))
        value = float(truth.mean())
        return cls(value, *wilson(value, len(truth)))

    @classmethod
    def mean(cls, values: Sequence[float] | Numbers, seed: int = 0) -> "Measure":
        """Of one value a problem."""
        numbers = np.asarray(values, dtype=float)
        return cls.of(lambda chosen: float(numbers[chosen].mean()), len(numbers), seed)

    @classmethod
    def of(cls, statistic: Callable[[Any], float], problems: int, seed: int = 0) -> "Measure":
        """Of a function of the positions of problems."""
        if problems == 0:
            return cls(float("nan"), float("nan"), float("nan"))
        draws = np.random.default_rng(seed).integers(problems, size=(RESAMPLES, problems))
        # Draws of which nothing can be told, such as an AUROC of right ones alone, are left out.
        found = [value for draw in draws if not math.isnan(value := statistic(draw))]
        low, high = np.quantile(found, [0.025, 0.975]) if found else (float("nan"), float("nan"))
        return cls(statistic(np.arange(problems)), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auroc(confidences: Sequence[float] | Numbers, right: Sequence[bool] | Any) -> float:
    """How often a right answer is held for surer than a wrong one, ties half; no number where there is but one sort."""
    values, truth = np.asarray(confidences, dtype=float), np.asarray(right, dtype=bool)
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return float("nan")
    order = np.argsort(values, kind="stable")
    _, inverse, counts = np.unique(values[order], return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    # Ties share the mean of their ranks.
    ranks = np.empty(len(values))
    ranks[order] = (ends - (counts - 1) / 2)[inverse]
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def answer_of(branch: Attempts) -> Mapping[str, Any] | None:
    """The attempt that the strategy takes for a branch's answer: the last that came to its end, if any did."""
    whole = [attempt for attempt in branch if attempt["confidence"] is not None]
    return whole[-1] if whole else branch[0] if branch else None


def _doubted(branch: Attempts, threshold: float) -> bool:
    """What was cut is not verified, and so not thought over."""
    confidence = branch[0]["confidence"] if branch else None
    return confidence is not None and (confidence < threshold or threshold == 1)


async def winner(branches: Sequence[Attempts], weighted: bool) -> bool:
    """Whether the heaviest of some branches' answers is right; of equals the first. The strategy's own vote, but that
    what says nothing has a vote only where all say nothing.
    """
    answers = [answer for answer in map(answer_of, branches) if answer is not None]
    texts: list[str] = []
    weights: list[float] = []
    rights: list[bool] = []
    verified = [one for one in answers if one["confidence"] is not None]
    for answer in verified or [one for one in answers if one["text"]] or answers:
        weight = float(answer["confidence"] or 0) if weighted else 1.0
        text = extract_answer(answer["text"], "auto")
        same = await find_same(text, texts, "auto")
        if same is None:
            texts.append(text)
            weights.append(weight)
            rights.append(bool(answer["right"]))
        else:
            weights[same] += weight
    return bool(weights) and rights[weights.index(max(weights))]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Of one checkpoint: a line a problem, as `evaluate` writes them."""

    lines: Sequence[Mapping[str, Any]]

    def first(self) -> list[bool]:
        """Whether the greedy first attempt is right, by problem."""
        return [bool(branch and branch[0]["right"]) for branch in self._greedy()]

    def last(self) -> list[bool]:
        """Whether what the client gets is right."""
        answers = [answer_of(branch) for branch in self._greedy()]
        return [answer is not None and bool(answer["right"]) for answer in answers]

    def refined(self) -> list[bool]:
        """Whether the model thought again."""
        return [len(branch) > 1 for branch in self._greedy()]

    def sampled_first(self) -> Measure:
        """The share of right first attempts among samples."""
        return Measure.mean(
            [float(np.mean([bool(b and b[0]["right"]) for b in branches])) for branches in self._sampled()]
        )

    def kept(self) -> Measure:
        """CL: how often a right first answer stays right."""
        return self._after(True)

    def corrected(self) -> Measure:
        """CS: how often a wrong first answer becomes right."""
        return self._after(False)

    def auroc_value(self) -> float:
        """Of the confidence in all sampled first attempts that were verified."""
        found = self.first_samples()
        return auroc([one["confidence"] for one in found], [one["right"] for one in found])

    def auroc(self) -> Measure:
        """Of the confidence in sampled first attempts that were verified; problems are resampled whole."""
        found = [
            ([one["confidence"] for one in firsts], [one["right"] for one in firsts]) for firsts in self._verified()
        ]

        def of(chosen: Any) -> float:
            picked = [found[i] for i in chosen]
            return auroc(np.concatenate([c for c, _ in picked]), np.concatenate([r for _, r in picked]))

        return Measure.of(of, len(found))

    def cut(self) -> int:
        """How many sampled first attempts came to no end."""
        return sum(bool(text) for text in self._unverified())

    def empty(self) -> int:
        """How many said nothing, which the strategy does not verify either."""
        return sum(not text for text in self._unverified())

    def first_samples(self) -> list[Mapping[str, Any]]:
        """All sampled first attempts that were verified: neither cut nor empty."""
        return [one for firsts in self._verified() for one in firsts]

    def votes(self, samples: int, weighted: bool) -> list[float]:
        """By problem: how often so many of its samples, taken in turn and round about, vote for a right answer."""

        async def of(branches: Sequence[Attempts]) -> float:
            around = [*branches, *branches][: len(branches) + samples - 1]
            windows = [around[i : i + samples] for i in range(len(branches) if samples < len(branches) else 1)]
            return float(np.mean([await winner(window, weighted) for window in windows]))

        async def all_of() -> list[float]:
            return [await of(branches) for branches in self._sampled()]

        return asyncio.run(all_of())

    def votes_at(self, samples: float, weighted: bool) -> Any:
        """The same of so many samples, which may be a fraction: between those of the two whole numbers beside it.

        None where they are fewer than one: there is no vote of less.
        """
        if samples < 1:
            return None
        below = min(int(samples), self.samples)
        part = samples - below
        found = np.array(self.votes(below, weighted))
        if part <= 0 or below == self.samples:
            return found
        return (1 - part) * found + part * np.array(self.votes(below + 1, weighted))

    def verdicts(self) -> tuple[Measure, Measure]:
        """How often the model chose to think again: of wrong greedy first attempts that were verified, and of right."""
        firsts = [branch[0] for branch in self._greedy() if branch and branch[0]["confidence"] is not None]
        wrong, right = ([one["refine"] for one in firsts if bool(one["right"]) is side] for side in (False, True))
        return Measure.share(wrong), Measure.share(right)

    def again_at(self, threshold: float) -> list[bool]:
        """Whether the greedy first attempt is less sure than that, by problem; all are at 1."""
        return [_doubted(branch, threshold) for branch in self._greedy()]

    def last_at(self, threshold: float) -> list[bool]:
        """Whether what a client gets is right, by problem, if attempts that are less sure than that are thought over.

        Of an evaluation in which all were, whatever the model chose.
        """
        answers = [answer_of(branch if _doubted(branch, threshold) else branch[:1]) for branch in self._greedy()]
        return [answer is not None and bool(answer["right"]) for answer in answers]

    def tokens(self) -> float:
        """Completion tokens of one sample, refined and verified, on average."""
        return float(
            np.mean([line["sampled"]["tokens"] / max(len(line["sampled"]["branches"]), 1) for line in self.lines])
        )

    @property
    def samples(self) -> int:
        """Of each problem."""
        return min(map(len, self._sampled()), default=0)

    def _after(self, before: bool) -> Measure:
        return Measure.share([last for first, last in zip(self.first(), self.last(), strict=True) if first == before])

    def _verified(self) -> list[list[Mapping[str, Any]]]:
        return [[b[0] for b in branches if b and b[0]["confidence"] is not None] for branches in self._sampled()]

    def _unverified(self) -> list[str]:
        return [b[0]["text"] for branches in self._sampled() for b in branches if b and b[0]["confidence"] is None]

    def _greedy(self) -> list[Attempts]:
        return [(line["greedy"]["branches"] or [[]])[0] for line in self.lines]

    def _sampled(self) -> list[list[Attempts]]:
        return [line["sampled"]["branches"] if "sampled" in line else [] for line in self.lines]
