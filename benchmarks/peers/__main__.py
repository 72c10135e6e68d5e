"""Measures and reports: `python -m benchmarks.peers`."""

import asyncio
import datetime
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks import machine, servers
from benchmarks.journal import Journal
from benchmarks.load import LoadError
from benchmarks.peers import gateways
from benchmarks.peers.accuracy import Answers
from benchmarks.peers.costs import Costs, Step
from benchmarks.peers.gateways import Fleet
from benchmarks.peers.report import PeersReport
from benchmarks.peers.settings import TASK, Settings, quick_settings
from benchmarks.peers.true_tokens import at_rest
from benchmarks.suites import Suite, SuiteError, suite

RESULTS = Path(__file__).parents[1] / "results"
PAUSE_SECONDS = 0.3
console = Console(stderr=True)


async def measure(journal: Journal, steps: Sequence[Step], fleet: Fleet, progress: Progress) -> None:
    """Takes every measurement that the journal lacks. One that a gateway fails is kept as its failure."""
    task = progress.add_task("measuring", total=len(steps))
    for step in steps:
        progress.update(task, description=step.key)
        if step.key not in journal.entries and step.arm.gateway in fleet.urls:
            fleet.check()
            try:
                # What a gateway goes on with is not to be the next one's burden.
                for engine in fleet.engines.values():
                    await at_rest(engine.counters, PAUSE_SECONDS)
                await servers.settled(list(fleet.engines.values()))
                entry = await step.measure()
            except LoadError as error:
                # An engine that has ended is no failure of the gateway.
                fleet.check()
                entry = {"error": str(error)}
            journal.add(step.key, entry)
        progress.advance(task)
    progress.remove_task(task)


def note_facts(journal: Journal, fleet: Fleet) -> None:
    """Keeps what the report says of the machine and the servers."""
    ours, theirs = fleet.engines.values()
    journal.facts |= {
        "sessions": journal.facts["sessions"] + 1,
        "date": datetime.date.today().isoformat(),
        "command": machine.command("benchmarks.peers"),
        "machine": machine.describe(),
        "commands": fleet.commands,
        "failed": {**journal.facts.get("failed", {}), **fleet.failed},
        "differences": servers.differences(ours.engine_config(), theirs.engine_config()),
    }
    journal.save()


def run(journal: Journal, settings: Settings, items: Suite) -> None:
    """Both halves of the comparison, each with servers of its own: they differ in how long an answer may be."""
    with servers.progress_bar(console) as progress:
        for kind, tokens in (("costs", settings.tokens), ("answers", settings.answer_tokens)):
            # Which steps there are is known without servers.
            if all(step.key in journal.entries for step in _steps(kind, settings, Fleet(), items)):
                continue
            with servers.ended_in_order() as stack:
                fleet = gateways.started(settings.flags, tokens, stack, progress)
                note_facts(journal, fleet)
                asyncio.run(measure(journal, _steps(kind, settings, fleet, items), fleet, progress))
    journal.complete = True
    journal.save()


def _steps(kind: str, settings: Settings, fleet: Fleet, items: Suite) -> list[Step]:
    half = Costs(settings, fleet) if kind == "costs" else Answers(settings, fleet, items)
    return list(half.steps())


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test.")] = False,
    seed: Annotated[int, typer.Option(help="Decides prompts, items and orders.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of latencies.")] = Settings.rounds,
    task: Annotated[str, typer.Option(help="gym:NAME[:KEY=VALUE,...] that accuracy is measured on.")] = TASK,
    items: Annotated[int, typer.Option(min=1, help="Of the task.")] = Settings.items,
    output: Annotated[Path, typer.Option(help="Folder of the report; --quick writes to quick/ in it.")] = RESULTS,
    report: Annotated[bool, typer.Option("--report", help="Only write the report again.")] = False,
) -> None:
    """Compare redraft with other gateways, and report it."""
    settings = quick_settings(seed, task) if quick else Settings(seed=seed, rounds=rounds, task=task, items=items)
    folder = output / "quick" if quick else output
    path = folder / "peers.json"
    try:
        journal = Journal.read(path) if report else Journal.open(path, asdict(settings))
        if not report:
            run(journal, settings, suite(task, settings.items, seed))
    except (FileNotFoundError, SuiteError) as error:
        raise typer.BadParameter(str(error)) from error
    written = PeersReport(journal).write(folder)
    console.print(f"[green]report:[/green] {written}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
