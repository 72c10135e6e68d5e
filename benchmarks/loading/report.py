"""From the journal of loads to Markdown and a plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.journal import Journal
from benchmarks.loading.measuring import PLAIN, Load
from benchmarks.loading.summary import Summary
from benchmarks.report import PLOT_DPI, facts_table, number, table, write

QUANTILES = (0.5, 0.95)
HEADER = [
    *("requests", "when they come", "sent", "failed", "requests/s", "tokens/s", "latency p50, p95"),
    *("first thought p50, p95", "first answer p50, p95", "generator late"),
]


class LoadingReport:
    """The report of one journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        settings = journal.settings
        self._loads = [Load(**load) for load in settings["loads"]]
        self._kinds = [PLAIN, *settings["strategies"]]

    def write(self, folder: Path) -> Path:
        """Writes loading.md and loading.png; returns the first."""
        facts, settings = self._journal.facts, self._journal.settings
        folder.mkdir(parents=True, exist_ok=True)
        self._plot(folder / "loading.png")
        smoke = "**A smoke test (`--quick`), not a measurement.** " if settings["quick"] else ""
        unfinished = "" if self._journal.complete else "**Unfinished: some measurements are missing.** "
        setup = {"date": facts["date"], "command": f"`{facts['command']}`", "server": f"`{facts['server']}`"}
        path = folder / "loading.md"
        write(
            path,
            [
                f"# Under load\n\n{smoke}{unfinished}{NOTE.format(**settings)}",
                facts_table({**setup, **facts["machine"]}),
                table(HEADER, (self._row(kind, load) for kind in self._kinds for load in self._loads)),
                "![Latencies](loading.png)",
            ],
        )
        return path

    def _summary(self, kind: str, load: Load) -> Summary | str:
        """Of a load, or why there is none."""
        entry: Mapping[str, Any] | None = self._journal.entries.get(f"{kind}/{load.name}")
        if entry is None:
            return "not measured"
        return " ".join(entry["error"].split()) if "error" in entry else Summary(**entry)

    def _row(self, kind: str, load: Load) -> list[str]:
        found = self._summary(kind, load)
        if isinstance(found, str):
            return [kind, load.name, found, *[""] * (len(HEADER) - 3)]
        times = [self._times(found, what) for what in ("latency", "first_thought", "first_answer")]
        rates = [number(found.request_rate), number(found.token_rate)]
        failed = f"{len(found.errors)}" + (f": {found.errors[0][:80]}" if found.errors else "")
        return [kind, load.name, str(found.requests), failed, *rates, *times, number(found.waited)]

    def _times(self, found: Summary, what: str) -> str:
        values = [found.at(what, share) for share in QUANTILES]
        return ", ".join(number(value) for value in values if value is not None) or "none"

    def _plot(self, path: Path) -> None:
        figure = Figure(figsize=(5 * len(self._loads), 4.5), layout="constrained")
        for axes, load in zip(figure.subplots(1, len(self._loads), squeeze=False)[0], self._loads, strict=True):
            for kind in self._kinds:
                found = self._summary(kind, load)
                if not isinstance(found, str) and found.latency:
                    shares = [(place + 1) / len(found.latency) for place in range(len(found.latency))]
                    axes.plot(sorted(found.latency), shares, drawstyle="steps-post", label=kind)
            axes.set(xlabel="seconds", ylabel="share of answers complete by then", title=load.name)
            axes.grid(alpha=0.3)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8)
        figure.savefig(path, dpi=PLOT_DPI)


NOTE = """{requests} requests a load, streamed, prompts of {words} words that no cache knows, {tokens} tokens forced \
in every answer, sample and draft. They come by a Poisson process, whatever the server does, or so many users ask \
again as soon as they are answered. Seconds are counted from when a request comes, so that waiting in a queue is in \
them. Plain requests are sent by `vllm bench serve`, others by this benchmark, with the default parameters of each \
strategy; their tokens include hidden ones. Where a strategy shows drafts, its first thought comes long before its \
first answer."""
