"""The plot of the comparison: what gateways cost, and what is right for how many tokens."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers.accuracy import by_hand
from benchmarks.peers.arms import ARMS, DIRECT, GATEWAYS, Arm
from benchmarks.peers.rows import Rows, Unmeasured
from benchmarks.report import PLOT_DPI
from benchmarks.stats import Ratio, wilson

COLORS = dict(zip(GATEWAYS, ("black", "tab:orange", "tab:green", "tab:blue", "tab:purple"), strict=True))
MARKERS = "osD^v<>Px*"


def plot(rows: Rows, samples: int, path: Path) -> None:
    """Draws it into a file."""
    figure = Figure(figsize=(15, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_costs(left, rows)
    _draw_accuracy(right, rows, samples)
    figure.savefig(path, dpi=PLOT_DPI)


def _draw_costs(axes: Axes, rows: Rows) -> None:
    shown = [(kind, arm) for kind in ("plain", "vote", "crowd") for arm in ARMS if arm.kind != "technique"]
    bars: list[tuple[str, Arm, Ratio | None]] = []
    for kind, arm in shown:
        if kind in (arm.kind, "crowd"):
            try:
                bars.append((f"{arm.name}{', at once' if kind == 'crowd' else ''}", arm, rows.over_one_call(kind, arm)))
            except Unmeasured:
                bars.append((f"{arm.name}: no figure", arm, None))
    for row, (_, arm, r) in enumerate(reversed(bars)):
        if r is not None:
            error = [[r.value - r.low], [r.high - r.value]]
            axes.barh(row, r.value, xerr=error, color=COLORS[arm.gateway], alpha=0.7, capsize=3)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in reversed(bars)], fontsize=7)
    axes.axvline(1.0, color="gray", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="seconds over one direct request (logarithmic)", title="What gateways cost")
    axes.grid(axis="x", alpha=0.3)


def _draw_accuracy(axes: Axes, rows: Rows, samples: int) -> None:
    try:
        votes = rows.answers(by_hand(samples))
        numbers = range(1, votes.samples + 1)
        tokens = [k * votes.completion / votes.samples for k in numbers]
        axes.plot(tokens, [np.mean(votes.voted(k)) for k in numbers], color="black", marker=".", label="vote by hand")
    except Unmeasured:
        pass
    arms = [arm for arm in ARMS if arm.gateway != DIRECT.gateway]
    for arm, marker in zip(arms, MARKERS * len(arms), strict=False):
        try:
            found = rows.answers(arm)
        except Unmeasured:
            continue
        mean = float(np.mean(found.right()))
        low, high = wilson(mean, len(found.judged))
        error = [[max(mean - low, 0)], [max(high - mean, 0)]]
        axes.errorbar(found.completion, mean, error, fmt=marker, color=COLORS[arm.gateway], capsize=3, label=arm.name)
    axes.set(xlabel="tokens that the engine made, an item", ylabel="accuracy", title="Right for how many tokens")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
