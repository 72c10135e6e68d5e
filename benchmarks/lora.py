"""What adapters (LoRA) cost on this machine: `python -m benchmarks.lora`.

Three servers stand side by side: redraft without adapters, redraft with eight, and `vllm serve` with the same eight and
its own kernels. Each round asks all of them, in a shuffled order, so that what slows the machine down slows all down.
"""

import asyncio
import datetime
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

from benchmarks import machine, servers
from benchmarks.journal import Journal
from benchmarks.load import all_of, chat, client, prompt
from benchmarks.report import (
    PLOT_DPI,
    Aim,
    Finding,
    facts_table,
    findings_text,
    plot_ratios,
    ratio,
    spread,
    table,
    write,
)
from benchmarks.servers import MODEL, EngineFlags, Server
from benchmarks.stats import Ratio

RESULTS = Path(__file__).parent / "results"
ADAPTERS = tuple(f"adapter-{place}" for place in range(8))
PLAIN, ADAPTED, VLLM = "without adapters", "redraft", "vllm"
PROMPT_WORDS = 30
console = Console(stderr=True)


@dataclass(frozen=True)
class Settings:
    """What decides the numbers; a journal of other settings is not continued."""

    quick: bool = False
    seed: int = 1
    rounds: int = 8
    at_once: int = 16
    tokens: int = 64
    rank: int = 8
    flags: EngineFlags = field(default_factory=EngineFlags)
    versions: dict[str, str] = field(default_factory=machine.versions)
    code: str = field(default_factory=machine.measured_code)


def loads(at_once: int) -> dict[str, list[str]]:
    """Models that are asked at the same time, by what the report calls that."""
    half = at_once // 2
    return {
        "one plain": [MODEL],
        "plain": [MODEL] * at_once,
        "half, one adapter": [MODEL, ADAPTERS[0]] * half,
        "half, eight adapters": [model for i in range(half) for model in (MODEL, ADAPTERS[i % len(ADAPTERS)])],
    }


async def speed(settings: Settings, server: Server, models: Sequence[str], generator: random.Random) -> float:
    """Tokens per second of requests that run side by side."""
    bodies = [chat(model, prompt(generator, PROMPT_WORDS), settings.tokens) for model in models]
    async with client(server.url) as http:
        load = await all_of(http, bodies, len(bodies))
    return load.tokens / load.seconds


async def measure(settings: Settings, running: Mapping[str, Server], journal: Journal, progress: Progress) -> None:
    """Makes the rounds that the journal lacks."""
    asked = loads(settings.at_once)
    generator = random.Random(f"{settings.seed} {len(journal.entries)}")
    for name, server in running.items():  # Warm, with all adapters loaded.
        await speed(settings, server, asked["plain" if name == PLAIN else "half, eight adapters"], generator)
    bar = progress.add_task("rounds", total=settings.rounds, completed=len(journal.entries))
    for number_of_round in range(len(journal.entries), settings.rounds):
        cells = [(name, load) for name in running for load in asked if name != PLAIN or "adapter" not in load]
        generator.shuffle(cells)
        found = {}
        for name, load in cells:
            await servers.settled(list(running.values()))
            found[f"{name}, {load}"] = await speed(settings, running[name], asked[load], generator)
        journal.add(f"{number_of_round:03}", found)
        progress.advance(bar)


def save_adapters(model: str, rank: int, folder: Path) -> dict[str, Path]:
    """Random ones of all linear layers, by name."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", init_lora_weights=False)
    found = {}
    for seed, name in enumerate(ADAPTERS):
        torch.manual_seed(seed)
        base: Any = AutoModelForCausalLM.from_pretrained(model)
        get_peft_model(base, config).save_pretrained(str(folder / name))
        found[name] = folder / name
    return found


def ratios(entries: Mapping[str, Mapping[str, float]]) -> dict[str, Ratio]:
    """What is compared with what, round by round."""

    def of(ours: str, theirs: str) -> Ratio:
        rounds = [entries[key] for key in sorted(entries)]
        return Ratio.of([one[ours] for one in rounds], [one[theirs] for one in rounds])

    return {label: of(ours, theirs) for label, (ours, theirs) in COMPARED.items()}


def report(journal: Journal, folder: Path) -> Path:
    """Writes lora.md and lora.png; returns the first."""
    facts, settings, entries = journal.facts, journal.settings, journal.entries
    found = ratios(entries)
    findings = [Finding(name, r.value, AIMS[name], (r.low, r.high)) for name, r in found.items() if name in AIMS]
    verdicts = {finding.what: finding.verdict() for finding in findings}
    measured = {name: [one[name] for one in entries.values()] for name in next(iter(entries.values()))}
    smoke = "**A smoke test (`--quick`), not a measurement.** " if settings["quick"] else ""
    setup = {"date": facts["date"], "command": f"`{facts['command']}`", **facts["machine"], **facts["servers"]}
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    plot_ratios(axes, found, AIMS)
    axes.set(xlabel="tokens per second, ratio", title="What adapters cost (red: aim)")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "lora.png", dpi=PLOT_DPI)
    rows = [[name, ratio(r), str(AIMS.get(name, "")), verdicts.get(name, "")] for name, r in found.items()]
    path = folder / "lora.md"
    write(
        path,
        [
            f"# What adapters cost\n\n{smoke}{NOTE.format(**settings)}",
            facts_table(setup),
            "## What misses its aim",
            findings_text(findings),
            "## Ratios of tokens per second",
            table(["ours / theirs", "median of rounds, 95% interval", "aim", ""], rows),
            "![Ratios](lora.png)",
            "## Tokens per second",
            table(["server, requests", "median (least..most)"], [[n, spread(v)] for n, v in sorted(measured.items())]),
        ],
    )
    return path


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of two minutes.")] = False,
    rounds: Annotated[int, typer.Option(help="How often all is asked.")] = Settings.rounds,
    output: Annotated[Path, typer.Option(help="Folder of the report; --quick writes to quick/ in it.")] = RESULTS,
) -> None:
    """Ask servers with and without adapters, and report what they cost."""
    settings = Settings(True, rounds=1, tokens=8) if quick else Settings(rounds=rounds)
    folder = output / "quick" if quick else output
    journal = Journal.open(folder / "lora.json", asdict(settings))
    with servers.progress_bar(console) as progress, servers.ended_in_order() as stack:
        model = servers.prepared_model()
        made = save_adapters(model, settings.rank, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        slots = str(len(made))
        ours = ["--adapters", str(made[ADAPTERS[0]].parent), "--adapter-slots", slots]
        theirs = ["--enable-lora", "--max-loras", slots, "--max-cpu-loras", slots, "--max-lora-rank"]
        theirs += [str(settings.rank), "--lora-modules", *(f"{name}={path}" for name, path in made.items())]
        plain = servers.started_redraft(model, settings.flags, stack, progress)
        running = {
            PLAIN: plain,
            ADAPTED: servers.started_redraft(model, settings.flags, stack, progress, ours),
            VLLM: servers.started_vllm(model, settings.flags, plain, stack, progress, theirs),
        }
        journal.facts |= {
            "sessions": journal.facts["sessions"] + 1,
            "date": datetime.date.today().isoformat(),
            "command": machine.command("benchmarks.lora"),
            "machine": machine.describe(),
            "servers": {name: f"`{server.command()}`" for name, server in running.items()},
        }
        asyncio.run(measure(settings, running, journal, progress))
    journal.complete = True
    journal.save()
    console.print(f"[green]report:[/green] {report(journal, folder)}", highlight=False, soft_wrap=True)


COMPARED = {
    "ready for adapters, one plain request": (f"{ADAPTED}, one plain", f"{PLAIN}, one plain"),
    "ready for adapters, all plain": (f"{ADAPTED}, plain", f"{PLAIN}, plain"),
    "half by one adapter / all plain": (f"{ADAPTED}, half, one adapter", f"{ADAPTED}, plain"),
    "half by eight adapters / all plain": (f"{ADAPTED}, half, eight adapters", f"{ADAPTED}, plain"),
    "vLLM: half by one adapter / all plain": (f"{VLLM}, half, one adapter", f"{VLLM}, plain"),
    "vLLM: half by eight adapters / all plain": (f"{VLLM}, half, eight adapters", f"{VLLM}, plain"),
    "half by eight adapters: redraft / vLLM": (f"{ADAPTED}, half, eight adapters", f"{VLLM}, half, eight adapters"),
}
AIMS = {
    "ready for adapters, one plain request": Aim(0.95, at_least=True),
    "ready for adapters, all plain": Aim(0.95, at_least=True),
    "half by one adapter / all plain": Aim(0.7, at_least=True),
    "half by eight adapters / all plain": Aim(0.7, at_least=True),
}
NOTE = """Tokens per second of {at_once} requests at once (or of one), {tokens} tokens each behind prompts of their \
own, greedy. Half: every other request has an adapter of rank {rank} in all linear layers. All engines run eagerly, as \
vLLM does with adapters anyway."""

if __name__ == "__main__":
    typer.run(main)
