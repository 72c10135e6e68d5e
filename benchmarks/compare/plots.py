"""Plots of a comparison, as SVG that stands in a page by itself."""

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.compare.frontier import Point
from benchmarks.compare.summary import Result, Summary
from benchmarks.metrics import METRICS

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#bcbd22", "#003f5c")
CURVE = "#555555"


def colour(place: int) -> str:
    """Of the arm at a place, in all plots."""
    return COLOURS[place % len(COLOURS)]


def frontier(result: Result) -> str | None:
    """Accuracy against tokens, with the curve of self-consistency; None where no arm's tokens are known."""
    known = [(place, arm.label, arm.point) for place, arm in enumerate(result.arms) if arm.point is not None]
    if not known:
        return None
    figure, axes = _figure(4.6)
    if result.curve:
        tokens, middles = [one.tokens for one in result.curve], [one.accuracy.value for one in result.curve]
        axes.plot(
            tokens, middles, color=CURVE, marker=".", label=f"self-consistency of {result.plain}, 1 to {len(tokens)}"
        )
        lows, highs = [one.accuracy.low for one in result.curve], [one.accuracy.high for one in result.curve]
        axes.fill_between(tokens, lows, highs, color=CURVE, alpha=0.12, linewidth=0)
    for place, label, point in known:
        axes.errorbar(
            point.tokens,
            point.accuracy.value,
            yerr=_errors([point]),
            fmt="D",
            markersize=9,
            capsize=4,
            color=colour(place),
            label=label,
        )
    axes.set(xlabel="tokens that the engine generates for an answer", ylabel="right answers", ylim=(-0.03, 1.03))
    axes.set_xlim(left=0)
    return _svg(figure, axes, "frontier")


def accuracy(result: Result) -> str | None:
    """Each arm by itself, by its vote, and by its best; None where no arm has answers."""
    arms = [(place, arm) for place, arm in enumerate(result.arms) if arm.metrics]
    if not arms:
        return None
    figure, axes = _figure(1.2 + 0.8 * len(arms))
    marks = dict(zip(METRICS, ("D", "o", "^"), strict=True))
    for row, (place, arm) in enumerate(reversed(arms)):
        for offset, (name, mark) in zip((0.24, 0.0, -0.24), marks.items(), strict=True):
            found = arm.metrics[f"{name}@{arm.k}"]
            spread = [[max(found.value - found.low, 0)], [max(found.high - found.value, 0)]]
            axes.errorbar(
                found.value, row + offset, xerr=spread, fmt=mark, color=colour(place), capsize=3, markersize=8
            )
    for name, mark in marks.items():
        axes.plot([], [], mark, color=CURVE, label=_NAMES[name])
    axes.set_yticks(range(len(arms)), [f"{arm.label} (k={arm.k})" for _, arm in reversed(arms)])
    axes.set(xlabel="share that is right", xlim=(-0.03, 1.03))
    return _svg(figure, axes, "accuracy")


_NAMES = {"avg": "an answer (avg@k)", "cons": "the vote (cons@k)", "pass": "at least one (pass@k)"}


def seconds(result: Result) -> str | None:
    """To the first thought, the first text of the answer, and the end, at the median; None where nothing was timed."""
    arms = [(place, arm) for place, arm in enumerate(result.arms) if arm.latency.p50 is not None]
    if not arms:
        return None
    figure, axes = _figure(1.2 + 0.6 * len(arms))
    for row, (place, arm) in enumerate(reversed(arms)):
        _bar(axes, row, arm, colour(place))
    for mark, name in (("|", "95 of 100 answers are there"), (">", "first thought"), ("o", "first text of the answer")):
        axes.plot([], [], mark, color="black", label=name, linestyle="")
    axes.set_yticks(range(len(arms)), [arm.label for _, arm in reversed(arms)])
    axes.set(xlabel="seconds to the last byte, at the median")
    axes.set_xlim(left=0)
    return _svg(figure, axes, "seconds")


def _bar(axes: Axes, row: int, arm: Summary, colour: str) -> None:
    axes.barh(row, arm.latency.p50 or 0.0, height=0.5, color=colour)
    for mark, value in (("|", arm.latency.p95), (">", arm.first_thought.p50), ("o", arm.first_answer.p50)):
        if value is not None:
            axes.plot(value, row, mark, color="black", markersize=12 if mark == "|" else 6)


def _errors(points: Sequence[Point]) -> list[list[float]]:
    found = [one.accuracy for one in points]
    # A mean may be outside of its own quantiles by a rounding error.
    return [[max(one.value - one.low, 0) for one in found], [max(one.high - one.value, 0) for one in found]]


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, axes: Axes, name: str) -> str:
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    text = io.StringIO()
    # Alike for alike numbers, and ids of one plot unlike those of another.
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
