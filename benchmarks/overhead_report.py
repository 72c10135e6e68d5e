"""From the journal of `benchmarks.overhead` to Markdown and a plot."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.journal import Journal
from benchmarks.report import (
    PLOT_DPI,
    Aim,
    Finding,
    facts_table,
    findings_text,
    number,
    plot_ratios,
    ratio,
    spread,
    table,
    write,
)
from benchmarks.stats import Ratio, quantile

Entry = Mapping[str, Any]

THROUGHPUT_AIM = Aim(0.95, at_least=True)
FIRST_TOKEN_AIM = Aim(1.1)
FIVE_SAMPLES_AIM = Aim(2.0)
STALL_AIM = Aim(50.0)
QUIET = 0.05
"""Cores' worth of processor time that others may use before the report warns."""

MEASURES: Mapping[str, tuple[Callable[[Entry], float], Aim | None]] = {
    "throughput, tokens/s": (lambda block: block["tokens"] / block["seconds"], THROUGHPUT_AIM),
    "time to first token, ms": (lambda block: quantile(block["first_token_ms"], 0.5), FIRST_TOKEN_AIM),
    "front CPU, ms per request": (lambda block: 1000 * block["front_cpu"] / block["requests"], None),
    "front CPU, ms per token": (lambda block: 1000 * block["front_cpu"] / block["tokens"], None),
}


class OverheadReport:
    """The report of one journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._settings = journal.settings
        self._findings: list[Finding] = []
        self._ratios: dict[str, Ratio] = {}
        self._aims: dict[str, Aim] = {}

    def write(self, folder: Path) -> Path:
        """Writes overhead.md and overhead.png; returns the first."""
        sections = [self._plain(), self._conditions(), self._samples(), self._prefix(), self._loop()]
        self._plot(folder / "overhead.png")
        path = folder / "overhead.md"
        head = [self._head(), "## What misses its aim", findings_text(self._findings)]
        write(path, [*head, "![Ratios and latencies](overhead.png)", *sections, self._setup(), METHOD])
        return path

    def _head(self) -> str:
        facts = self._journal.facts
        smoke = SMOKE if self._settings["quick"] else ""
        shown = {"date": facts["date"], "command": f"`{facts['command']}`", **facts["machine"]}
        return f"# What the gateway costs\n\n{smoke}{INTRODUCTION}\n\n" + facts_table(shown)

    def _plain(self) -> str:
        rows = []
        for cell in self._settings["cells"]:
            ours, theirs = (self._journal.under("plain", cell["name"], name) for name in ("redraft", "vllm"))
            for measure, (value, aim) in MEASURES.items():
                mine, base = [value(block) for block in ours], [value(block) for block in theirs]
                r = Ratio.of(mine, base, self._settings["seed"])
                judged = self._judge(f"{cell['name']}: {measure.partition(',')[0]}", r, aim if cell["judged"] else None)
                rows.append([f"{cell['name']}: {measure}", spread(mine), spread(base), ratio(r), *judged])
        header = ["load: measure", "redraft", "vllm serve", "redraft / vllm serve", "aim", ""]
        return f"## Plain requests\n\n{self._loads()}\n\n{table(header, rows)}"

    def _loads(self) -> str:
        loads = [
            f"{c['name']}: {c['requests']} requests, {c['concurrency']} at a time, answers of length {c['tokens']}"
            for c in self._settings["cells"]
        ]
        prompts = {round(block["prompt_tokens"]) for block in self._journal.under("plain")}
        span = f"{min(prompts)} to {max(prompts)}"
        return f"Rounds: {self._settings['rounds']}. {'; '.join(loads)}. Prompts have {span} tokens. {PLAIN_NOTE}"

    def _judge(self, what: str, r: Ratio, aim: Aim | None) -> tuple[str, str]:
        self._ratios[what] = r
        if aim is None:
            return "", ""
        self._aims[what] = aim
        finding = Finding(what + " ratio", r.value, aim, (r.low, r.high))
        self._findings.append(finding)
        return str(aim), finding.verdict()

    def _conditions(self) -> str:
        blocks = self._journal.under("plain")
        (idle,) = self._journal.under("idle")
        others = [block["foreign_cpu"] / block["seconds"] for block in blocks]
        beside = [block["other_cpu"] / block["seconds"] for block in blocks]
        rows = [
            [f"{name}, all processes, both servers idle", number(idle[name] / idle["seconds"])]
            for name in ("redraft", "vllm")
        ]
        rows += [
            ["the idle server, all processes, while the other is loaded", spread(beside)],
            ["everything else on the machine, while one is loaded", spread(others)],
        ]
        disturbed = quantile(beside, 0.5) > QUIET
        verdict = "The idle engine disturbs the loaded one." if disturbed else "The idle engine does not disturb."
        if quantile(others, 0.5) > QUIET:
            verdict += f" **The machine was not quiet:** others used more than {QUIET} cores."
        return f"### Two engines side by side\n\n{table(['', 'cores in use'], rows)}\n\n{verdict}"

    def _samples(self) -> str:
        names = {kind: [entry["seconds"] for entry in self._journal.under("samples", kind)] for kind in SAMPLE_KINDS}
        one = names["one"]
        rows = []
        for kind, label in SAMPLE_KINDS.items():
            judged: tuple[str, str] = ("", "")
            shown = ""
            if kind != "one":
                r = Ratio.of(names[kind], one, self._settings["seed"])
                shown = ratio(r)
                judged = self._judge(f"{label} / one", r, FIVE_SAMPLES_AIM if kind == "strategy" else None)
            rows.append([label, spread(names[kind]), shown, *judged])
        header = ["request", "seconds", "against one", "aim", ""]
        text = SAMPLES_NOTE.format(tokens=self._settings["sample_tokens"])
        return f"## Five samples against one\n\n{text}\n\n{table(header, rows)}"

    def _prefix(self) -> str:
        rows = []
        block = self._settings["flags"]["block_size"]
        for entry in self._journal.under("prefix"):
            length, engine = entry["prompt_tokens"], entry["engine"]
            computed = engine["prompt_tokens"] - engine["cached_tokens"]
            # A branch computes its last, partial block by itself: only full blocks are shared.
            ideal = length + (engine["requests"] - 1) * (length - (length - 1) // block * block)
            finding = Finding(f"prompt of {length} tokens: tokens computed for 5 samples", computed, Aim(ideal))
            self._findings.append(finding)
            counted = f"{number(entry['counters']['queries'])} / {number(entry['counters']['hits'])}"
            asked = [length, engine["prompt_tokens"], engine["cached_tokens"], counted]
            rows.append([*asked, computed, f"{computed / length:.2f}", finding.aim, finding.verdict()])
        header = ["prompt", "of 5 samples", "cached", "vLLM: queries / hits", "computed", "in prompts", "aim", ""]
        return f"## The prompt is computed once\n\n{PREFIX_NOTE.format(block=block)}\n\n{table(header, rows)}"

    def _loop(self) -> str:
        rows = []
        for name, label in STALL_KINDS.items():
            entries = self._journal.under("stall", name)
            watches = [entry["watch"] for entry in entries]
            worst = max((s["cpu_ms"] for w in watches for s in w["worst"]), default=0.0)
            verdict = ""
            if name != "vllm":
                finding = Finding(f"{label}: longest stall of the loop's own doing, ms", worst, STALL_AIM)
                self._findings.append(finding)
                verdict = f"{STALL_AIM}: {finding.verdict()}"
            rows.append(
                [
                    label,
                    _tail([entry["health"] for entry in entries]),
                    _tail([entry["lateness"] for entry in entries]),
                    _tail([w["late"] for w in watches]),
                    f"{sum(w['stalls'] for w in watches)} / {sum(w['own_stalls'] for w in watches)}",
                    number(worst),
                    number(max(w["collections"]["longest_ms"] for w in watches)),
                    verdict,
                ]
            )
        header = [
            *("load", "/health: p50, p99, max", "the probe itself late", "loop late: p50, p99, max"),
            *("stalls over 50 ms: all / own", "longest own", "longest collection", "aim"),
        ]
        loops = ", ".join(f"{name}: `{self._watch(name)['loop']}`" for name in STALL_KINDS if name != "plain")
        parts = [f"## The event loop under load\n\n{LOOP_NOTE} Event loops: {loops}.", table(header, rows)]
        return "\n\n".join([*parts, self._culprits()])

    def _watch(self, kind: str) -> Entry:
        watch: Entry = self._journal.under("stall", kind)[0]["watch"]
        return watch

    def _culprits(self) -> str:
        worst = [
            (stall["cpu_ms"], stall["ms"], stall["at"])
            for name in ("plain", "mixed")
            for entry in self._journal.under("stall", name)
            for stall in entry["watch"]["worst"]
        ]
        if not worst:
            return "Redraft's loop never stalled for more than 50 ms."
        worst.sort(key=lambda stall: stall[0], reverse=True)
        lines = [
            f"- {number(ms)} ms late, {number(cpu)} ms of them computing: "
            + (" ← ".join(f"`{place}`" for place in at[:4]) or "not seen")
            for cpu, ms, at in worst[:5]
        ]
        return "Where redraft's loop was in its worst stalls, innermost call first:\n\n" + "\n".join(lines)

    def _setup(self) -> str:
        facts = self._journal.facts
        commands = "\n".join(f"{name}: {command}" for name, command in facts["commands"].items())
        environment = " ".join(f"{name}={value}" for name, value in facts["variables"].items())
        differing = facts["differences"] or ["none"]
        parts = [
            "## Servers",
            f"```\n{commands}\n```",
            f"Environment of both, as redraft chose it: `{environment}`.",
            "Differences between what the engines report of themselves (redraft / vllm serve):",
            "\n".join(f"- {item}" for item in differing),
            f"Measured in {facts['sessions']} session{'s' if facts['sessions'] > 1 else ''}.",
        ]
        return "\n\n".join(parts)

    def _plot(self, path: Path) -> None:
        figure = Figure(figsize=(14, 5.5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[5, 4])
        plot_ratios(left, self._ratios, self._aims)
        left.set_title("Ratios: rounds, median with 95 % interval, aim in red")
        for name, label in STALL_KINDS.items():
            profiles = [entry["health"] for entry in self._journal.under("stall", name)]
            beyond = 1 - np.linspace(0, 1, len(profiles[0]))
            right.plot(np.median(profiles, axis=0), beyond, drawstyle="steps-post", label=label)
        right.set(xscale="log", yscale="log", xlabel="ms", title="Share of /health answers slower than that")
        right.grid(alpha=0.3)
        right.legend(loc="upper right", fontsize="small")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=PLOT_DPI)


def _tail(profiles: Sequence[Sequence[float]]) -> str:
    """Median, 99th percentile and maximum of distributions given by their quantiles, worst round for the last two."""
    middle = quantile([quantile(profile, 0.5) for profile in profiles], 0.5)
    high = max(quantile(profile, 0.99) for profile in profiles)
    return f"{number(middle)}, {number(high)}, {number(max(profile[-1] for profile in profiles))}"


SAMPLE_KINDS = {"one": "one sample", "strategy": "self_consistency of 5", "n": "plain request with n=5"}
STALL_KINDS = {
    "vllm": "vllm serve, 16 plain streams",
    "plain": "redraft, 16 plain streams",
    "mixed": "redraft, 16 plain and 4 strategy streams",
}

SMOKE = "**A smoke test (`--quick`), not a measurement.** "
INTRODUCTION = """`redraft serve` against `vllm serve` on the same machine, with the same model and the same engine \
settings. A ratio is the median over rounds of redraft's number divided by vLLM's in the same round; brackets hold \
its 95 % bootstrap interval over rounds, parentheses the least and the greatest round."""
PLAIN_NOTE = """Streamed, greedy, of forced length; every prompt is new. The front is the process with the HTTP \
server, without engine and workers. Its milliseconds per token hold what a request costs once, divided by the tokens; \
the load of one token shows that cost by itself."""
SAMPLES_NOTE = """One request at a time to redraft, not streamed, {tokens} tokens forced in every sample, no early \
stop. `n=5` is the engine's own way to five samples: what it takes longer than one sample is the engine's, the rest \
the strategy's. In front of a mock upstream the same cannot be measured through HTTP yet: redraft has no remote \
engine. `python -m benchmarks.branches` measures it in front of a mock engine within redraft's own process."""
PREFIX_NOTE = """`self_consistency` of 5, alone on the engine. Cached tokens as the response's `strategy.engine` has \
them, and beside them what vLLM's prefix-cache counters gained. Only full blocks of {block} tokens are shared, so the \
aim is one prompt and four times what its last block holds; a block of the system prompt that was cached before may \
take it below that."""
LOOP_NOTE = """From outside: a process of its own asks GET /health every 5 ms on one connection. On a machine whose \
cores are all computing it is late itself, which is a floor for what it sees. From inside: the loop beats every 5 ms; \
a beat that is over 50 ms late is a stall, and it is the loop's own doing if its thread computed for 50 ms meanwhile. \
All in ms; p50 is the median round's, p99 and max the worst round's."""
METHOD = """## How it was measured

Both servers are up all the time, one at a time is loaded. A round holds every load once, in shuffled order; each \
load goes to both servers in turn, redraft first in half of the rounds, in an order shuffled with the recorded seed. \
Both are started by `python -m benchmarks.watched`, which runs the very function of the command and sleeps except in \
the section on the event loop. `vllm serve` runs without redraft's plugins. All raw numbers are in `overhead.json`."""
