"""Parts of a Markdown report: tables, numbers, aims and what misses them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.stats import Ratio, Spread

PLOT_DPI = 120


@dataclass(frozen=True, slots=True)
class Aim:
    """A bound on a number."""

    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {number(self.limit)}"

    def holds(self, value: float) -> bool:
        """Whether `value` is within it."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Finding:
    """A measured number with an aim, and how well the number is known."""

    what: str
    value: float
    aim: Aim
    interval: tuple[float, float] | None = None

    def verdict(self) -> str:
        """One word for the table, and a reservation where the interval asks for one."""
        word = "met" if self.aim.holds(self.value) else "**missed**"
        doubtful = self.interval is not None and len({self.aim.holds(end) for end in self.interval}) > 1
        return f"{word}, not certain" if doubtful else word


def findings_text(findings: Sequence[Finding]) -> str:
    """A plain statement of what misses its aim, and of what the measurement cannot decide."""
    missed = [f for f in findings if not f.aim.holds(f.value)]
    lines = [f"{len(missed)} of {len(findings)} aims are missed." if missed else f"All {len(findings)} aims are met."]
    lines += [f"- {f.what}: {number(f.value)}, the aim is {f.aim}." for f in missed]
    lines += [
        f"- Not certain: {f.what}, {number(f.value)}; the interval {interval(*f.interval)} holds the aim {f.aim}."
        for f in findings
        if f.interval is not None and f.verdict().endswith("not certain")
    ]
    return "\n".join(lines)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def facts_table(facts: Mapping[str, object]) -> str:
    """Names and values as a Markdown table."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def number(value: float) -> str:
    """About three significant digits, without an exponent."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return "< 0.001"
    digits = 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}" if abs(value) >= 0.1 else f"{value:.3f}"


def spread(values: Sequence[float]) -> str:
    """Median and extremes."""
    s = Spread.of(values)
    return f"{number(s.median)} ({number(s.low)}..{number(s.high)})"


def interval(low: float, high: float) -> str:
    """An interval to two decimals."""
    return f"[{low:.2f}, {high:.2f}]"


def ratio(r: Ratio) -> str:
    """A ratio with its interval."""
    return f"{r.value:.2f} {interval(r.low, r.high)}"


def plot_ratios(axes: Axes, ratios: Mapping[str, Ratio], aims: Mapping[str, Aim]) -> None:
    """Rounds as dots, medians with intervals as bars, aims as ticks."""
    names = list(reversed(list(ratios)))
    for row, name in enumerate(names):
        r = ratios[name]
        axes.plot(r.pairs, [row] * len(r.pairs), "o", color="tab:blue", alpha=0.35, markersize=4)
        axes.errorbar(r.value, row, xerr=[[r.value - r.low], [r.high - r.value]], fmt="D", color="black", capsize=4)
        if name in aims:
            axes.plot([aims[name].limit] * 2, [row - 0.35, row + 0.35], color="tab:red", linewidth=2)
    axes.set_yticks(range(len(names)), names)
    axes.axvline(1.0, color="gray", linewidth=0.8, linestyle=":")
    axes.grid(axis="x", alpha=0.3)


def write(path: Path, parts: Iterable[str]) -> None:
    """Writes the parts of a report, with an empty line between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n")
