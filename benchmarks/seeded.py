"""Seeded requests under pressure: `python -m benchmarks.seeded`.

64 seeded prompts of 900 tokens at once, several times: every one must be answered, the engine must live on, and the
same seeds should give the same texts. Against it `vllm serve` alone, whose CPU engine dies of such requests.
"""

import asyncio
import datetime
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

from benchmarks import machine, servers
from benchmarks.journal import Journal
from benchmarks.load import ask, chat, client, prompt
from benchmarks.report import PLOT_DPI, Aim, Finding, facts_table, findings_text, number, table, write
from benchmarks.servers import MODEL, EngineFlags, Server
from benchmarks.stats import Spread

Entry = Mapping[str, Any]

RESULTS = Path(__file__).parent / "results"
RUNS = {"first": "first", "second": "second", "cached": "first"}
"""Runs against redraft, and the salt of their prefix cache: a new salt makes the engine compute all prompts again."""
BASELINE = "vllm"
console = Console(stderr=True)


@dataclass(frozen=True)
class Settings:
    """What decides the numbers; a journal of other settings is not continued."""

    quick: bool = False
    seed: int = 1
    requests: int = 64
    prompt_tokens: int = 900
    tokens: int = 16
    temperature: float = 0.8
    flags: EngineFlags = field(default_factory=lambda: EngineFlags(kv_cache_gib=4.0))
    versions: dict[str, str] = field(default_factory=machine.versions)
    code: str = field(default_factory=machine.measured_code)


async def bodies(settings: Settings, server: Server, salt: str) -> list[dict[str, Any]]:
    """The requests, each with a seed and a prompt of its own."""
    generator = random.Random(settings.seed)
    async with client(server.url) as http:

        async def length(text: str) -> int:
            message = {"role": "user", "content": text}
            response = await http.post("/tokenize", json={"model": MODEL, "messages": [message]})
            return int(response.raise_for_status().json()["count"])

        frame = await length(prompt(generator, 100)) - 100
    more = {"temperature": settings.temperature, "stream": False, "cache_salt": f"{settings.seed} {salt}"}
    texts = [prompt(generator, settings.prompt_tokens - frame) for _ in range(settings.requests)]
    return [chat(MODEL, text, settings.tokens, seed=seed, **more) for seed, text in enumerate(texts)]


async def run(settings: Settings, server: Server, salt: str, progress: Progress) -> dict[str, Any]:
    """Sends all requests at once; what became of them and of the engine."""
    requests = await bodies(settings, server, salt)
    task = progress.add_task(f"{server.name}, {salt}", total=len(requests))
    began = time.perf_counter()
    async with client(server.url) as http, asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(http, body)) for body in requests]
        for answered in asked:
            answered.add_done_callback(lambda _: progress.advance(task))
    replies = [answered.result() for answered in asked]
    good = [reply for reply in replies if reply.status == httpx.codes.OK]
    return {
        "seconds": time.perf_counter() - began,
        "status": [reply.status for reply in replies],
        "took": [reply.seconds for reply in replies],
        "texts": [reply.text if reply in good else None for reply in replies],
        "prompt_tokens": [reply.usage["prompt_tokens"] for reply in good],
        "cached_tokens": sum(
            (reply.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for reply in good
        ),
        "alive": await alive(server),
    }


async def alive(server: Server) -> bool:
    """Whether the engine still answers."""
    async with client(server.url) as http:
        try:
            health = await http.get("/health")
        except httpx.HTTPError:
            return False
        answer = await ask(http, chat(MODEL, "Are you there?", 4, stream=False))
        return health.status_code == answer.status == httpx.codes.OK


async def measure(journal: Journal, settings: Settings, server: Server, runs: Mapping[str, str], bar: Progress) -> None:
    """Makes the runs that the journal lacks."""
    for name, salt in runs.items():
        if name not in journal.entries:
            journal.add(name, await run(settings, server, salt, bar))


def same_share(one: Sequence[str | None], other: Sequence[str | None]) -> float:
    """The share of requests that got the same text twice."""
    return sum(a == b is not None for a, b in zip(one, other, strict=True)) / len(one)


def report(journal: Journal, folder: Path) -> Path:
    """Writes seeded.md and seeded.png; returns the first."""
    facts, settings, entries = journal.facts, journal.settings, journal.entries
    made = {name: label for name, label in LABELS.items() if name in entries}
    findings = [finding for name in RUNS if name in made for finding in aims(made[name], entries[name])]
    rows = [run_row(label, entries[name], entries["first"]) for name, label in made.items()]
    lengths = Spread.of(entries["first"]["prompt_tokens"] or [0])
    note = NOTE.format(**settings, least=round(lengths.low), most=round(lengths.high))
    smoke = "**A smoke test (`--quick`), not a measurement.** " if settings["quick"] else ""
    setup = {"date": facts["date"], "command": f"`{facts['command']}`", **facts["machine"]}
    setup["server"] = f"`{facts['server']}`"
    _plot(entries, folder / "seeded.png")
    path = folder / "seeded.md"
    write(
        path,
        [
            f"# Seeded requests under pressure\n\n{smoke}{note}",
            facts_table(setup),
            "## What misses its aim",
            findings_text(findings),
            "## Runs",
            table(HEADER, rows),
            SAME_NOTE,
            "![Answers over time](seeded.png)",
        ],
    )
    return path


def run_row(label: str, entry: Entry, first: Entry) -> list[str]:
    """One run in the table."""
    return [
        label,
        f"{answers(entry)} of {len(entry['status'])}",
        "yes" if entry["alive"] else "no",
        f"{same_share(first['texts'], entry['texts']):.0%}" if answers(entry) and entry is not first else "",
        f"{entry['cached_tokens'] / max(1, sum(entry['prompt_tokens'])):.0%}",
        number(entry["seconds"]),
    ]


def aims(label: str, entry: Entry) -> list[Finding]:
    """What a run must hold."""
    return [
        Finding(f"{label}: answers of 200", answers(entry), Aim(len(entry["status"]), at_least=True)),
        Finding(f"{label}: engine alive afterwards (1: yes)", int(entry["alive"]), Aim(1, at_least=True)),
    ]


def answers(entry: Entry) -> int:
    """How many requests of a run were answered."""
    return sum(status == httpx.codes.OK for status in entry["status"])


def _plot(entries: Mapping[str, Any], path: Path) -> None:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in LABELS.items():
        if name in entries and name != BASELINE:
            took = sorted(entries[name]["took"])
            axes.step([0, *took], range(len(took) + 1), where="post", label=label)
    axes.set(xlabel="seconds", ylabel="answers", title="Answers over time")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=PLOT_DPI)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of two minutes.")] = False,
    seed: Annotated[int, typer.Option(help="Decides the prompts.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the report; --quick writes to quick/ in it.")] = RESULTS,
    baseline: Annotated[bool, typer.Option(help="Also show what becomes of vllm serve alone.")] = True,
) -> None:
    """Send many seeded requests at once, and report what became of them."""
    settings = Settings(True, seed, requests=8, prompt_tokens=300, tokens=4) if quick else Settings(seed=seed)
    folder = output / "quick" if quick else output
    journal = Journal.open(folder / "seeded.json", asdict(settings))
    with servers.progress_bar(console) as progress, servers.ended_in_order() as stack:
        model = servers.prepared_model()
        redraft = servers.started_redraft(model, settings.flags, stack, progress)
        journal.facts |= {
            "sessions": journal.facts["sessions"] + 1,
            "date": datetime.date.today().isoformat(),
            "command": machine.command("benchmarks.seeded"),
            "machine": machine.describe(),
            "server": redraft.command(),
        }
        asyncio.run(measure(journal, settings, redraft, RUNS, progress))
        if baseline:
            vllm = servers.started_vllm(model, settings.flags, redraft, stack, progress)
            asyncio.run(measure(journal, settings, vllm, {BASELINE: "first"}, progress))
    journal.complete = True
    journal.save()
    console.print(f"[green]report:[/green] {report(journal, folder)}", highlight=False, soft_wrap=True)


HEADER = ["run", "answers of 200", "engine alive after", "same texts as the first", "prompt from cache", "seconds"]
LABELS = {
    "first": "redraft",
    "second": "redraft again, prompts computed again",
    "cached": "redraft again, prompts from the prefix cache",
    BASELINE: "vllm serve alone",
}
NOTE = """{requests} requests at once, each with a seed and a prompt of its own of {least} to {most} tokens, \
temperature {temperature}, {tokens} tokens each. With these lengths every prefill is split over steps, which kills \
vLLM's own CPU engine on the first seeded request; redraft patches that."""
SAME_NOTE = """A CPU's matrix products depend on what else is in the batch. Runs whose requests arrive in another \
order batch differently, and where two tokens are nearly as likely, that decides between them: below 100 % no seed is \
lost, a rounding error is."""

if __name__ == "__main__":
    typer.run(main)
