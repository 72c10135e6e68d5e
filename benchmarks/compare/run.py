"""A comparison from its settings to its report."""

import asyncio
import datetime
import signal
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.compare import page
from benchmarks.compare.asking import ask_all
from benchmarks.compare.folder import Folder
from benchmarks.compare.outcomes import outcomes
from benchmarks.compare.plan import plan
from benchmarks.compare.serving import served
from benchmarks.compare.settings import Settings
from benchmarks.compare.summary import Result
from benchmarks.servers import progress_bar
from benchmarks.suites import Suite, suite


def compare(path: Path, settings: Settings, command: str, console: Console) -> Path:
    """Asks what the folder does not hold yet, and writes its report; returns where that is.

    Args:
        path: of the folder.
        settings: of the run.
        command: as the report shows it.
        console: where progress is shown.

    Raises:
        CompareError: a setting, the folder or an endpoint is not as it must be.
        SuiteError: there is no such suite, or its data cannot be had.
    """
    # A server that this process started ends with it, also where it is told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked = suite(settings.suite, settings.count, settings.seed, settings.run_code)
    folder = Folder(path)
    with folder.taken(settings, asked.items):
        _ask(settings, asked, folder, command, console)
        return report(settings, asked, folder, console)


def report(settings: Settings, asked: Suite, folder: Folder, console: Console) -> Path:
    """Grades what is there, and writes the report."""
    with console.status("grading"):
        done = outcomes(settings, asked, folder.answers.read(), folder.blocks.read())
    plain = settings.plain
    k = {arm.label: settings.answers_of(arm) for arm in settings.arms}
    result = Result.of(asked.name, len(asked.items), done, k, plain.label if plain else None)
    return page.write(folder.path, settings, result, folder.sessions.read())


def _ask(settings: Settings, asked: Suite, folder: Folder, command: str, console: Console) -> None:
    there = folder.there()
    blocks = [block.without(there) for block in plan(settings, asked.items)]
    missing = sum(len(block.asked) for block in blocks)
    if not missing:
        return
    today = datetime.date.today().isoformat()
    with served(settings, console) as url, progress_bar(console) as progress:
        folder.sessions.read()  # Half a line of one that was cut off ends here.
        folder.sessions.add({"date": today, "command": command, "machine": machine.describe()})
        bar = progress.add_task("answers", total=missing + len(there), completed=len(there))
        asyncio.run(ask_all(settings, blocks, folder, url, lambda: progress.advance(bar)))
