"""Measures and reports: `python -m benchmarks.loading`."""

import datetime
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks import machine, servers
from benchmarks.journal import Journal
from benchmarks.loading.measuring import MOST_REQUESTS, Load, Settings, is_loopback, measure
from benchmarks.loading.report import LoadingReport
from benchmarks.loading.vllm_bench import Target
from benchmarks.servers import MODEL

RESULTS = Path(__file__).parents[1] / "results"
console = Console(stderr=True)


def quick(settings: Settings) -> Settings:
    """A smoke test of these settings."""
    loads = (Load("rate", 1.0), Load("users", 2))
    return replace(settings, quick=True, requests=3, tokens=8, loads=loads, strategies=settings.strategies[:1])


def started(
    url: str | None, model: str, settings: Settings, stack: ExitStack, progress: Progress
) -> tuple[Target, str]:
    """A running server, or one that is started, and how it is called in the report."""
    path = servers.prepared_model()
    if url is not None:
        return Target(url, model, path), url
    server = servers.started_redraft(path, settings.flags, stack, progress)
    return Target(server.url, MODEL, path), server.command()


def main(
    quickly: Annotated[bool, typer.Option("--quick", help="A smoke test.")] = False,
    seed: Annotated[int, typer.Option(help="Decides prompts, arrivals and orders.")] = 1,
    requests: Annotated[int, typer.Option(min=1, max=MOST_REQUESTS, help="Of each load.")] = Settings.requests,
    rate: Annotated[list[float] | None, typer.Option(help="Requests a second; may be given more than once.")] = None,
    users: Annotated[list[int] | None, typer.Option(help="Users at a time; likewise.")] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="Beside plain requests; likewise.")] = None,
    url: Annotated[str | None, typer.Option(help="Of a redraft on this machine; by default one is started.")] = None,
    model: Annotated[str, typer.Option(help="That it serves, the default one by another name.")] = MODEL,
    output: Annotated[Path, typer.Option(help="Folder of the report; --quick writes to quick/ in it.")] = RESULTS,
    report: Annotated[bool, typer.Option("--report", help="Only write the report again.")] = False,
) -> None:
    """Put a server under load, and report how it bears that."""
    if url is not None and not is_loopback(url):
        raise typer.BadParameter(f"{url} is not http to this machine, and nothing else is put under load")
    if any(one <= 0 for one in (*(rate or ()), *(users or ()))):
        raise typer.BadParameter("rates and users must be above 0")
    loads = (*(Load("rate", one) for one in rate or ()), *(Load("users", one) for one in users or ()))
    settings = Settings(seed=seed, requests=requests, loads=loads or Settings.loads)
    settings = replace(settings, strategies=tuple(strategy or Settings.strategies))
    settings = quick(settings) if quickly else settings
    folder = output / "quick" if quickly else output
    path = folder / "loading.json"
    try:
        journal = Journal.read(path) if report else Journal.open(path, asdict(settings) | {"url": url})
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from error
    if not report:
        with servers.progress_bar(console) as progress, servers.ended_in_order() as stack:
            target, shown = started(url and url.rstrip("/"), model, settings, stack, progress)
            journal.facts |= {
                "date": datetime.date.today().isoformat(),
                "command": machine.command("benchmarks.loading"),
                "machine": machine.describe(),
                "server": shown,
            }
            measure(journal, settings, target, progress)
    written = LoadingReport(journal).write(folder)
    console.print(f"[green]report:[/green] {written}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
