"""The report of `benchmarks.srgen`: tables, plots, and what they mean."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

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
from benchmarks.stats import Ratio

OVERHEAD_AIM = Aim(1.25)
HF_AIM = Aim(5.0, at_least=True)
PLAIN, DEFAULT, FORCED, ONE_STEP = "without", "defaults", "forced", "forced, 1 step"
"""The arms."""
ARMS = (PLAIN, DEFAULT, FORCED, ONE_STEP)


def report(journal: Journal, shown: Mapping[str, Any], folder: Path) -> Path:
    """Writes srgen.md and its plots; returns the first."""
    entries, settings, facts = journal.entries, journal.settings, journal.facts
    rows, ratios, findings = [], dict[str, Ratio](), []
    hf = entries["hugging_face"]
    hf_speed = {name: [entry["tokens_per_second"] for entry in hf[name]] for name in ARMS}
    for concurrency in settings["concurrency"]:
        speeds = {
            name: [entry["tokens_per_second"] for entry in journal.under("speed", f"{concurrency:02}", name)]
            for name in ARMS
        }
        for name in ARMS[1:]:
            made = [entry["activations"] for entry in journal.under("speed", f"{concurrency:02}", name)]
            # Time over time: what an answer takes longer.
            r = Ratio.of(speeds[PLAIN], speeds[name])
            ratios[f"{concurrency} at once, {name}"] = r
            over_hf = mean(speeds[name]) / mean(hf_speed[name])
            rows.append(
                [
                    f"{concurrency} at once, {name}",
                    spread(made),
                    spread(speeds[PLAIN]),
                    spread(speeds[name]),
                    ratio(r),
                    f"{over_hf:.1f}",
                ]
            )
    most = max(settings["concurrency"])
    aimed = ratios[f"{most} at once, {FORCED}"]
    made = [entry["activations"] for entry in journal.under("speed", f"{most:02}", FORCED)]
    findings.append(
        Finding(
            f"time with SRGen over without, {most} at once, {median(made):.1f} corrections an answer",
            aimed.value,
            OVERHEAD_AIM,
            (aimed.low, aimed.high),
        )
    )
    forced = [entry["tokens_per_second"] for entry in journal.under("speed", f"{most:02}", FORCED)]
    findings.append(
        Finding(f"tokens/s at {most} at once over Hugging Face", mean(forced) / mean(hf_speed[FORCED]), HF_AIM)
    )
    _plot_ratios(ratios, most, folder / "srgen.png")
    _plot_answer(hf["trace"], folder / "srgen_answer.png")
    path = folder / "srgen.md"
    soaked = entries["soak"]
    setup = {"date": facts["date"], "command": f"`{facts['command']}`", **facts["machine"]}
    setup |= {"server": f"`{facts['server']}`", "dtype": facts["dtype"]}
    agreeing = sorted(set(hf["trace"]["positions"]) & set(facts["shown"]))
    smoke = "**A smoke test (`--quick`), not a measurement.**\n\n" if settings["quick"] else ""
    write(
        path,
        [
            f"# What SRGen costs\n\n{smoke}{NOTE.format(**settings, **entries['calibration'])}",
            facts_table(setup),
            "## What misses its aim",
            findings_text(findings),
            "![Time with SRGen over without](srgen.png)",
            "## Speed",
            table(HEADER, rows),
            SPEED_NOTE,
            "## Plain Hugging Face, batch 1",
            table(
                ["", "corrections an answer", "tokens/s"],
                [[name, spread([entry["activations"] for entry in hf[name]]), spread(hf_speed[name])] for name in ARMS],
            ),
            HF_NOTE.format(dtype=hf["dtype"]),
            "## Memory",
            MEMORY_NOTE.format(
                **facts["memory"],
                mib=facts["memory"]["bytes"] * facts["memory"]["slots"] / 2**20,
                requests=soaked["requests"],
                activations=soaked["activations"],
            ),
            table(
                ["after requests", "resident MiB of the engine's processes"],
                [
                    [str(soaked["requests"] * i // (len(soaked["memory_mib"]) - 1)), number(mib)]
                    for i, mib in enumerate(soaked["memory_mib"])
                ],
            ),
            "## One answer",
            "![Entropy and threshold](srgen_answer.png)",
            ANSWER_NOTE.format(
                settings=", ".join(f"{k} {v}" for k, v in shown.items()),
                agreeing=len(agreeing),
                ours=len(facts["shown"]),
                theirs=len(hf["trace"]["positions"]),
            ),
        ],
    )
    return path


def _plot_ratios(ratios: Mapping[str, Ratio], most: int, path: Path) -> None:
    figure = Figure(figsize=(8, 1 + 0.5 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    plot_ratios(axes, ratios, {f"{most} at once, {FORCED}": OVERHEAD_AIM})
    axes.set_xlabel("time of an answer with SRGen over without (red: the aim)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=PLOT_DPI)


def _plot_answer(shown: Mapping[str, Any], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    positions = range(1, len(shown["entropies"]) + 1)
    axes.plot(positions, shown["entropies"], linewidth=1, label="entropy")
    axes.step(positions, shown["thresholds"], where="mid", color="tab:orange", label="threshold")
    fired = shown["positions"]
    axes.plot(fired, [shown["entropies"][p - 1] for p in fired], "o", color="tab:red", label="corrected")
    axes.plot(fired, shown["after"], "v", color="tab:green", label="after the correction")
    axes.set(xlabel="generated token", ylabel="nats", title="SRGen over one answer")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=PLOT_DPI)


def mean(values: Sequence[float]) -> float:
    """Of one value or more."""
    return sum(values) / len(values)


HEADER = [
    "",
    "corrections an answer",
    "tokens/s without",
    "tokens/s with",
    "time with / without",
    "over Hugging Face",
]
NOTE = """Answers of {tokens} tokens, temperature {temperature}, {rounds} rounds, each with all arms in shuffled \
order on the same prompts and seeds. `defaults`: the paper's parameters. `forced`: a fixed threshold of \
{threshold:.2f} nats, found by bisection for about 6 corrections an answer ({activations:.1f} there); \
with `steps` 1 instead of 3 a correction needs only the positions since the last one."""
SPEED_NOTE = """Without: plain requests to the same server, so the ratio holds the gateway's strategy run as well. \
Ratios are medians over rounds with 95% bootstrap intervals."""
HF_NOTE = """By autograd, with a KV cache, in {dtype}, the faster of float32 and bfloat16 here. It is the oracle of \
the tests too (`benchmarks/hf_srgen.py`), written to be read; it does not fill the prompt again at each correction, \
as the published code does."""
MEMORY_NOTE = """{bytes} bytes a token (hidden size x dtype, and a token id), beside each of the {slots} slots of the \
KV cache: {mib:.0f} MiB at most, taken as it is used, however many requests; and up to {kept} MiB of \
distributions, of the texts that were corrected last. {requests} requests with {activations} corrections:"""
ANSWER_NOTE = """Entropies by Hugging Face, greedy, with {settings}. It corrects {theirs} tokens of the answer, the \
server {ours}; {agreeing} of them at the same positions. In half precision the two differ by rounding, and go separate \
ways once they choose another token."""
