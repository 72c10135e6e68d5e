"""The report of `benchmarks.ttsi`: who was right with and without adapting, at which threshold, and what it took."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.journal import Journal
from benchmarks.report import PLOT_DPI, facts_table, interval, number, table, write
from benchmarks.stats import CONFIDENCE, mcnemar, quantile, wilson

PLAIN, ADAPTED, HARDER, IN_CONTEXT, AGAIN = "plain", "adapted", "adapted, rate x 10", "in context", "plain again"
ARMS = (PLAIN, ADAPTED, HARDER, IN_CONTEXT, AGAIN)
TTSI = "TT-SI"
PARTS = ("judge", "pairs", "training", "loading", "answer")
TAUS = np.linspace(0, 1, 101)
FEWEST = 6
"""Changed answers: of fewer, none is a split that the exact test tells from chance."""
NAMES = {"right": "right call", "name": "right function"}
"""Of what answers with tools are graded by."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Truths = np.ndarray[Any, np.dtype[np.bool_]]
Entries = Mapping[str, Sequence[Mapping[str, Any]]]
"""Of a task: what each arm did, item by item."""


def entries_of(journal: Journal, task: str) -> Entries:
    """By arm, the same items in the same order for all."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for key in sorted(journal.entries):
        where, _, arm = key.split("/")
        if where == task:
            found.setdefault(arm, []).append(journal.entries[key])
    return {arm: found[arm] for arm in ARMS if arm in found}


@dataclass(frozen=True, slots=True)
class Flips:
    """Answers that an arm changed from wrong to right, and from right to wrong."""

    items: int
    gained: int
    lost: int

    @property
    def p(self) -> float:
        """Of McNemar's exact test."""
        return mcnemar(self.gained, self.lost)

    def verdict(self) -> str:
        """What can be said of it."""
        changed = self.gained + self.lost
        if changed == 0:
            return "no difference"
        if changed < FEWEST:
            return f"too few changed to tell (it takes {FEWEST})"
        if self.p >= 1 - CONFIDENCE:
            return "no difference is seen"
        return "better" if self.gained > self.lost else "worse"

    def row(self) -> list[str]:
        """Of a table."""
        shares = [_share(np.arange(self.items) < count) for count in (self.gained, self.lost)]
        counts = [f"{count}: {share}" for count, share in zip((self.gained, self.lost), shares, strict=True)]
        return [str(self.items), *counts, f"{self.p:.2g}"]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Who was right on each item of a task.

    Attributes:
        gaps: that the plain arm judged by.
        right: by arm.
    """

    gaps: Numbers
    right: Mapping[str, Truths]

    @classmethod
    def of(cls, entries: Entries, measure: str = "right") -> "Outcomes":
        """By one of the grades."""
        gaps = np.array([entry["gap"] for entry in entries[PLAIN]])
        return cls(gaps, {arm: np.array([entry[measure] for entry in found]) for arm, found in entries.items()})

    def uncertain(self, tau: float) -> Truths:
        """The items that TT-SI adapts to, as the strategy has it."""
        below: Truths = (self.gaps < tau) | (tau == 1)
        return below

    def ttsi(self, tau: float) -> Truths:
        """Who is right where only the uncertain are adapted to."""
        answers: Truths = np.where(self.uncertain(tau), self.right[ADAPTED], self.right[PLAIN])
        return answers

    def flips(self, arm: str, among: Truths) -> Flips:
        """Of an arm against the plain one."""
        before, after = self.right[PLAIN][among], self.right[arm][among]
        return Flips(len(before), int((after & ~before).sum()), int((before & ~after).sum()))

    def subsets(self, tau: float) -> dict[str, Truths]:
        """The items by how certain the model is of them."""
        uncertain = self.uncertain(tau)
        return {"certain": ~uncertain, "uncertain": uncertain, "all": np.ones_like(uncertain)}

    def compared(self, tau: float) -> Iterator[tuple[str, str, Flips]]:
        """Each arm against the plain one, among the uncertain and, if that is not the same, among all."""
        uncertain = self.uncertain(tau)
        for arm in self.right:
            if arm == PLAIN:
                continue
            if uncertain.any():
                yield arm, "uncertain", self.flips(arm, uncertain)
            if not uncertain.all():
                yield arm, "all", self.flips(arm, np.ones_like(uncertain))


def report(journal: Journal, folder: Path) -> Path:
    """Writes ttsi.md and ttsi.png; returns the first."""
    settings, facts = journal.settings, journal.facts
    tasks = {name: entries_of(journal, name) for name in facts["tasks"]}
    _plot(tasks, settings["tau"], folder / "ttsi.png")
    setup = {"date": facts["date"], "command": f"`{facts['command']}`", "server": f"`{facts['server']}`"}
    smoke = "**A smoke test (`--quick`), not a measurement.** " if settings["quick"] else ""
    path = folder / "ttsi.md"
    write(
        path,
        [
            f"# TT-SI: does it pay?\n\n{smoke}{NOTE.format(**settings, asked=_asked(facts['tasks']))}",
            facts_table({**setup, **facts["machine"]}),
            "## What is seen",
            "\n".join(line for name, entries in tasks.items() for line in conclusions(name, entries, settings["tau"])),
            CONCLUSIONS_NOTE,
            "![Accuracy against the threshold, and seconds by part](ttsi.png)",
            *(_section(name, entries, settings["tau"]) for name, entries in tasks.items()),
        ],
    )
    return path


def _asked(tasks: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{name} {found['asked']} ({found['fit']} of {found['of']} fit)" for name, found in tasks.items())


def measures(entries: Entries) -> dict[str, str]:
    """What answers of a task are graded by, and how the report calls it."""
    return NAMES if "name" in entries[PLAIN][0] else {"right": "right answer"}


def conclusions(task: str, entries: Entries, tau: float) -> Iterator[str]:
    """Sentences that say no more than the numbers do."""
    uncertain = Outcomes.of(entries).uncertain(tau)
    yield f"- **{task}**: {uncertain.sum()} of {len(uncertain)} items are uncertain at {tau:g}, {_share(uncertain)}."
    if not uncertain.any():
        yield "  - TT-SI adapts to none of them, and is the plain model."
    for measure, name in measures(entries).items():
        for arm, where, flips in Outcomes.of(entries, measure).compared(tau):
            yield (
                f"  - {name}, {arm} against plain, {where} items ({flips.items}): {flips.gained} wrong → right, "
                f"{flips.lost} right → wrong, p = {flips.p:.2g}: {flips.verdict()}."
            )
    seconds = {arm: _median([entry["seconds"] for entry in found]) for arm, found in entries.items()}
    yield f"  - Median seconds an item: {'; '.join(f'{arm} {number(took)}' for arm, took in seconds.items())}."
    failed = {arm: sum(entry["fallback"] is not None for entry in found) for arm, found in entries.items()}
    if any(failed.values()):
        said = ", ".join(f"{count} of {len(entries[arm])} ({arm})" for arm, count in failed.items() if count)
        yield f"  - Nothing to learn from, so answered as if plain: {said}."


def _section(name: str, entries: Entries, tau: float) -> str:
    shown = {label: Outcomes.of(entries, measure) for measure, label in measures(entries).items()}
    parts = [f"## {name}"]
    for label, outcomes in shown.items():
        parts.append(f"**{label}**")
        parts.append(table(["items", "n", *outcomes.right, TTSI], _accuracies(outcomes, tau)))
        flips = [[f"{arm}, {where}", *found.row(), found.verdict()] for arm, where, found in outcomes.compared(tau)]
        parts.append(table(["against plain", "n", "wrong → right", "right → wrong", "p", ""], flips))
    parts.append("**What the arms did**")
    parts.append(table(DID, [[arm, *_did(found, entries[PLAIN])] for arm, found in entries.items()]))
    parts.append("**Seconds: median (95th percentile)**")
    parts.append(table(["arm", "whole", *PARTS], [[arm, *_seconds(found)] for arm, found in entries.items()]))
    return "\n\n".join(parts)


def _accuracies(outcomes: Outcomes, tau: float) -> Iterator[list[str]]:
    answers = [*outcomes.right.values(), outcomes.ttsi(tau)]
    for where, among in outcomes.subsets(tau).items():
        yield [where, str(among.sum()), *(_share(right[among]) for right in answers)]


def _did(found: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> list[str]:
    losses = [entry["losses"] for entry in found if entry["losses"]]
    first, last = ([loss[i] for loss in losses] for i in (0, 1))
    others = [entry["answer"] != before["answer"] for entry, before in zip(found, plain, strict=True)]
    return [
        str(sum(others)) if found is not plain else "",
        str(sum(entry["called"] for entry in found)) if "called" in found[0] else "",
        str(sum(entry["finish_reason"] == "length" for entry in found)),
        str(sum(entry["fallback"] is not None for entry in found)),
        str(sum(entry["refused"] or 0 for entry in found)),
        f"{_median(first):.2f} → {_median(last):.2f}" if losses else "",
        number(_median([entry["tokens"] for entry in found])),
    ]


def _seconds(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield _typical([entry["seconds"] for entry in found])
    for part in PARTS:
        yield _typical(_lasted(found, part))


def _lasted(found: Sequence[Mapping[str, Any]], part: str) -> list[float]:
    return [entry["parts"][part] for entry in found if part in entry["parts"]]


def _typical(values: Sequence[float]) -> str:
    return f"{number(_median(values))} ({number(quantile(values, 0.95))})" if values else ""


def _median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)


def _share(truths: Truths) -> str:
    if not len(truths):
        return ""
    mean = float(truths.mean())
    return f"{mean:.2f} {interval(*wilson(mean, len(truths)))}"


def sweep(outcomes: Outcomes, taus: Numbers) -> tuple[Numbers, Numbers]:
    """TT-SI at each threshold: the share of right answers, and how many items it adapts to."""
    right = np.array([outcomes.ttsi(tau).mean() for tau in taus])
    adapted = np.array([outcomes.uncertain(tau).sum() for tau in taus], dtype=float)
    return right, adapted


def _plot(tasks: Mapping[str, Entries], tau: float, path: Path) -> None:
    figure = Figure(figsize=(5 * len(tasks), 8), layout="constrained")
    grid = figure.add_gridspec(2, len(tasks))
    for column, (name, entries) in enumerate(tasks.items()):
        _plot_sweep(figure.add_subplot(grid[0, column]), name, entries, tau)
    _plot_parts(figure.add_subplot(grid[1, :]), tasks)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=PLOT_DPI)


def _plot_sweep(axes: Axes, name: str, entries: Entries, tau: float) -> None:
    for style, (measure, label) in zip(("-", "--"), measures(entries).items(), strict=False):
        outcomes = Outcomes.of(entries, measure)
        right, adapted = sweep(outcomes, TAUS)
        low, high = zip(*(wilson(float(share), len(outcomes.gaps)) for share in right), strict=True)
        axes.plot(TAUS, right, style, color="black", label=label)
        axes.fill_between(TAUS, low, high, color="black", alpha=0.08, linewidth=0)
    axes.axvline(tau, color="gray", linewidth=0.8, linestyle=":")
    axes.set(xlabel="threshold on the gap (τ)", ylabel="share right, TT-SI", title=name, ylim=(-0.02, 1.02))
    axes.legend(fontsize=8)
    beside = axes.twinx()
    beside.step(TAUS, adapted, where="post", color="tab:blue", alpha=0.6)
    beside.set_ylabel("items adapted to", color="tab:blue")
    beside.set_ylim(-0.02 * len(outcomes.gaps), 1.02 * len(outcomes.gaps))


def _plot_parts(axes: Axes, tasks: Mapping[str, Entries]) -> None:
    rows = [(f"{name}, {arm}", found) for name, entries in tasks.items() for arm, found in entries.items()][::-1]
    labels, lefts = [label for label, _ in rows], np.zeros(len(rows))
    for part in PARTS:
        lasted = [_lasted(found, part) for _, found in rows]
        widths = np.array([_median(values) if values else 0.0 for values in lasted])
        axes.barh(labels, widths, left=lefts, label=part)
        lefts += widths
    axes.set(xlabel="median seconds of each part")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)


DID = [
    "arm",
    "another answer than plain",
    "called a function",
    "cut",
    "fell back",
    "pairs refused",
    "loss, first → last epoch",
    "tokens an item",
]
NOTE = """Every item is asked of the served weights (plain), of weights adapted to it (adapted: `ttsi` with threshold \
1), once more at ten times the paper's learning rate (rate x 10), and with the pairs in the prompt and nothing trained \
(in context: TT-ICL); else with the paper's defaults. TT-SI adapts to an item whose gap is below τ, {tau:g} in the \
tables, and leaves the others to the served weights: its column is put together from the plain and the adapted answers \
by the gaps of the plain arm. Items: {asked}; `simple` and `multiple` are those of BFCL (bfcl-eval {bfcl}, \
simple_python and multiple), the first whose question and tools have no more than {longest} characters of JSON. A \
right call is one that BFCL's own checker takes; a right function is called by its name, once and nothing else. They \
are asked at temperature 0 and with `tool_choice` required, for left to itself the default model hardly ever calls a \
function (none of 5 in a trial). Problems of reasoning-gym (`{gym}`) are asked at {temperature}, for there sampled \
answers are the judge, an extension of the paper. All are asked of the served weights once more, with another seed \
(plain again): what flips there flips by sampling alone, and at temperature 0 by rounding. Answers have {tokens} \
tokens at most.

A request with one tool has a gap of 1 by definition: `simple` is never uncertain, and adapted to only because the \
adapted arm adapts to every request.

{at_once} requests are under way at a time, of all arms in shuffled order, and trainings wait for each other: the \
seconds of training include the queue, and those of all parts the work beside them. Parts are told by when their notes \
came; medians of parts do not add up to that of the whole. Tokens are all that the engine \
generated for an item, pairs and samples too. An answer is another where a single character is, which rounding alone \
can do: it depends on what is computed beside. A fallback is an answer of the served weights because there was no pair \
or no adapter; it counts as its arm's."""
CONCLUSIONS_NOTE = """Intervals are Wilson's, 95%. p is McNemar's exact test on the same items, two-sided; better and \
worse are said where it is below 0.05. It is not corrected for the number of comparisons above: by chance alone, about \
one in twenty would say so."""
