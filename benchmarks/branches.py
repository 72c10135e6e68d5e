"""What branches cost the gateway: `python -m benchmarks.branches`.

`self_consistency` of 5 against one plain sample of the same length, in front of an engine that takes the same time for
any number of requests. All that the five take longer is the gateway's doing.
"""

import asyncio
import datetime
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import machine, mock_engine, servers
from benchmarks.load import ask, chat, client
from benchmarks.mock_engine import FIRST_TOKEN_SECONDS, TOKEN_SECONDS
from benchmarks.plugins import announced
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
    write,
)
from benchmarks.report import table as markdown_table
from benchmarks.servers import MODEL, EngineFlags, Server
from benchmarks.stats import Ratio
from clients.process import free_port

RESULTS = Path(__file__).parent / "results"
AIM = Aim(1.05)
SAMPLES = 5
QUESTION = "Tom has 12 apples and buys 7 more. How many apples does he have?"
console = Console(stderr=True)


def strategy(tokens: int) -> Mapping[str, Any]:
    """A request for five samples that all run to their end."""
    return {
        "strategy": {"name": "self_consistency", "params": {"samples": SAMPLES, "early_stop": False, "answer": "text"}},
        "temperature": 0.7,
        "max_tokens": tokens,
    }


async def measure(server: Server, rounds: int, tokens: int, concurrency: int) -> dict[str, list[float]]:
    """Seconds of both arms, alternating; each figure is the mean of `concurrency` requests side by side."""
    arms: dict[str, Mapping[str, Any]] = {"one sample": {"temperature": 0.7}, "self_consistency of 5": strategy(tokens)}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    async with client(server.url) as http:
        for number_ in range(-1, rounds):
            for name in arms if number_ % 2 else reversed(arms):
                body = chat(MODEL, QUESTION, tokens, **arms[name])
                replies = await asyncio.gather(*(ask(http, body) for _ in range(concurrency)))
                if number_ >= 0:
                    seconds[name].append(sum(reply.checked().seconds for reply in replies) / concurrency)
    return seconds


def report(path: Path, rounds: int, tokens: int, measured: Mapping[int, Mapping[str, list[float]]]) -> None:
    """Writes the report and its plot."""
    ratios = {
        f"{concurrency} at a time": Ratio.of(arms["self_consistency of 5"], arms["one sample"])
        for concurrency, arms in measured.items()
    }
    figure = Figure(figsize=(7, 1.2 + 0.6 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    plot_ratios(axes, ratios, dict.fromkeys(ratios, AIM))
    axes.set_xlabel("seconds of five samples over one (red: the aim)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=PLOT_DPI)
    findings = [Finding(f"five over one, {name}", r.value, AIM, (r.low, r.high)) for name, r in ratios.items()]
    rows = [
        [name, *(spread(values) for values in measured[concurrency].values()), ratio(r), str(AIM)]
        for (name, r), concurrency in zip(ratios.items(), measured, strict=True)
    ]
    ideal = FIRST_TOKEN_SECONDS + (tokens - 1) * TOKEN_SECONDS
    write(
        path,
        [
            "# What branches cost the gateway",
            f"`{machine.command('benchmarks.branches')}`, {datetime.date.today()}",
            f"Streamed answers of {tokens} tokens. The mock engine takes {number(ideal)} s for each. "
            f"{rounds} rounds, arms alternating; seconds as median (least..most), ratios with 95% bootstrap intervals.",
            markdown_table(["", "one sample", "self_consistency of 5", "ratio", "aim"], rows),
            f"![ratios]({path.with_suffix('.png').name})",
            findings_text(findings),
            facts_table(machine.describe()),
        ],
    )
    console.print(path.read_text(), markup=False, highlight=False)


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of both arms.")] = 20,
    tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 64,
    output: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "branches.md",
) -> None:
    """Measures and writes the report."""
    with servers.ended_in_order() as stack, servers.progress_bar(console) as progress:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        flags = EngineFlags(kv_cache_gib=0.5).for_redraft(servers.prepared_model(), port)
        server = servers.started(
            servers.redraft(flags, port, announced(folder, mock_engine.NAME, f"{mock_engine.__name__}:register")),
            stack,
            progress,
        )
        measured = {n: asyncio.run(measure(server, rounds, tokens, n)) for n in (1, 4)}
    report(output, rounds, tokens, measured)


if __name__ == "__main__":
    typer.run(main)
