"""Whether iterative deepening is worth its tokens: `python -m benchmarks.deepening`.

A sweep of its first budget and growth against self-consistency, on the same problems, by accuracy and by the tokens
that the engine generated. All arms answer each problem; which is better is told by a bootstrap over problems, in pairs.
"""

import asyncio
import datetime
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

from benchmarks import machine, servers
from benchmarks.journal import Journal
from benchmarks.load import ask, chat, client
from benchmarks.problems import Problem, from_file, from_gym, right
from benchmarks.report import PLOT_DPI, facts_table, interval, number, table, write
from benchmarks.servers import MODEL, EngineFlags, Server
from benchmarks.stats import CONFIDENCE, RESAMPLES

RESULTS = Path(__file__).parent / "results"
SAMPLES = 4
console = Console(stderr=True)


@dataclass(frozen=True)
class Settings:
    """What decides the numbers; a journal of other settings is not continued."""

    quick: bool = False
    seed: int = 1
    problems: int = 60
    gym: tuple[str, ...] = ("chain_sum", "gcd")
    files: tuple[str, ...] = ()
    tokens: int = 256
    temperature: float = 0.7
    votes: tuple[int, ...] = (1, 2, 4, 8)
    first_budgets: tuple[int, ...] = (32, 96)
    growths: tuple[float, ...] = (1.5, 2.0, 4.0)
    at_once: int = 4
    flags: EngineFlags = field(default_factory=EngineFlags)
    versions: dict[str, str] = field(default_factory=machine.versions)
    code: str = field(default_factory=machine.measured_code)


def arms(settings: Settings) -> dict[str, Mapping[str, Any]]:
    """The strategies by the names that the report gives them."""
    votes: dict[str, Mapping[str, Any]] = {
        f"self_consistency of {samples}": {"name": "self_consistency", "params": {"samples": samples}}
        for samples in settings.votes
    }
    deepening: dict[str, Mapping[str, Any]] = {
        f"deepening from {first} by {growth:g}": {
            "name": "iterative_deepening",
            "params": {"first_budget": first, "growth": growth, "samples": SAMPLES, "max_rounds": 2},
        }
        for first in settings.first_budgets
        for growth in settings.growths
    }
    again: dict[str, Mapping[str, Any]] = {
        "deepening, reopening": {
            "name": "iterative_deepening",
            "params": {
                "first_budget": settings.first_budgets[-1],
                "samples": SAMPLES,
                "max_rounds": 1,
                "reopen_finished": True,
            },
        }
    }
    return votes | deepening | again


def problems(settings: Settings) -> dict[str, list[Problem]]:
    """By task."""
    gym = {name: from_gym(name, settings.problems, settings.seed) for name in settings.gym}
    return gym | {Path(path).stem: from_file(Path(path), settings.problems) for path in settings.files}


async def measure(settings: Settings, server: Server, journal: Journal, progress: Progress) -> None:
    """Every arm on every problem, in an order shuffled for each problem."""
    strategies = arms(settings)
    cells = [
        (f"{task}/{number_:04}/{name}", problem, strategies[name])
        for task, found in problems(settings).items()
        for number_, problem in enumerate(found)
        for name in random.Random(f"{settings.seed} {task} {number_}").sample(sorted(strategies), len(strategies))
    ]
    bar = progress.add_task("answers", total=len(cells))
    waiting = iter(cells)
    async with client(server.url) as http:

        async def work() -> None:
            for key, problem, strategy in waiting:
                if key not in journal.entries:
                    body = chat(MODEL, problem.prompt, settings.tokens, stream=False)
                    body |= {"temperature": settings.temperature, "seed": settings.seed, "strategy": strategy}
                    body |= {"min_tokens": 0, "ignore_eos": False}
                    reply = (await ask(http, body)).checked()
                    engine = reply.strategy["engine"]
                    entry = {
                        "right": right(reply.text, problem.answer),
                        "tokens": engine["completion_tokens"],
                        "computed": engine["prompt_tokens"] - engine["cached_tokens"],
                        "seconds": round(reply.seconds, 2),
                    }
                    journal.add(key, entry)
                progress.advance(bar)

        async with asyncio.TaskGroup() as workers:
            for _ in range(settings.at_once):
                workers.create_task(work())


def column(entries: Mapping[str, Any], task: str, name: str, what: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """One number of all problems of a task, of an arm, in the order of the problems."""
    keys = sorted(key for key in entries if key.startswith(f"{task}/") and key.endswith(f"/{name}"))
    return np.array([float(entries[key][what]) for key in keys])


def bootstrap(values: "np.ndarray[Any, np.dtype[np.float64]]", seed: int = 0) -> tuple[float, float]:
    """The interval of a mean over problems."""
    means = np.random.default_rng(seed).choice(values, (RESAMPLES, len(values))).mean(1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def rival(entries: Mapping[str, Any], task: str, votes: Sequence[str], tokens: float) -> str:
    """The self-consistency whose tokens a problem are nearest to so many."""
    return min(votes, key=lambda name: abs(column(entries, task, name, "tokens").mean() - tokens))


def report(journal: Journal, folder: Path) -> Path:
    """Writes deepening.md and deepening.png; returns the first."""
    settings, entries = journal.settings, journal.entries
    names = list(journal.facts["arms"])
    votes = [name for name in names if name.startswith("self_consistency")]
    parts = []
    for task in journal.facts["tasks"]:
        rows = []
        for name in names:
            correct, tokens = (column(entries, task, name, what) for what in ("right", "tokens"))
            low, high = bootstrap(correct)
            row = [name, f"{correct.mean():.2f} {interval(low, high)}", number(tokens.mean())]
            if name in votes:
                rows.append([*row, "", ""])
                continue
            other = rival(entries, task, votes, tokens.mean())
            difference = correct - column(entries, task, other, "right")
            rows.append([*row, other, f"{difference.mean():+.2f} {interval(*bootstrap(difference))}"])
        parts += [f"## {task}", table(HEADER, rows)]
    _plot(journal, names, votes, folder / "deepening.png")
    setup = {"date": journal.facts["date"], "command": f"`{journal.facts['command']}`", **journal.facts["machine"]}
    smoke = "**A smoke test (`--quick`), not a measurement.** " if settings["quick"] else ""
    path = folder / "deepening.md"
    write(
        path,
        [
            f"# Iterative deepening against self-consistency\n\n{smoke}{NOTE.format(**settings, n=SAMPLES)}",
            facts_table(setup),
            "![Accuracy against tokens](deepening.png)",
            *parts,
        ],
    )
    return path


def _plot(journal: Journal, names: Sequence[str], votes: Sequence[str], path: Path) -> None:
    tasks, entries = journal.facts["tasks"], journal.entries
    figure = Figure(figsize=(6 * len(tasks), 4.5), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for name in names:
            correct, tokens = column(entries, task, name, "right"), column(entries, task, name, "tokens")
            low, high = bootstrap(correct)
            mean = correct.mean()
            style = {"color": "black", "fmt": "o"} if name in votes else {"fmt": "D"}
            label = "self_consistency" if name == votes[0] else None if name in votes else name
            axes.errorbar(
                tokens.mean(), mean, yerr=[[mean - low], [high - mean]], capsize=3, alpha=0.8, label=label, **style
            )
        axes.plot(
            [column(entries, task, name, "tokens").mean() for name in votes],
            [column(entries, task, name, "right").mean() for name in votes],
            color="black",
            linewidth=1,
        )
        axes.set(xlabel="generated tokens a problem", ylabel="accuracy", title=task)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=PLOT_DPI)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of three minutes.")] = False,
    seed: Annotated[int, typer.Option(help="Decides problems and draws.")] = 1,
    count: Annotated[int, typer.Option("--problems", help="Of each task.")] = 60,
    gym: Annotated[list[str] | None, typer.Option(help="A reasoning-gym task; may be given more than once.")] = None,
    file: Annotated[list[Path] | None, typer.Option(help="A JSONL file of problems; likewise.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the report; --quick writes to quick/ in it.")] = RESULTS,
) -> None:
    """Measures and writes the report."""
    files = tuple(str(path) for path in file or ())
    settings = Settings(seed=seed, problems=count, gym=tuple(gym or Settings.gym), files=files)
    if quick:
        settings = Settings(
            True, seed, 4, Settings.gym[:1], files, 64, votes=(1, 2), first_budgets=(24,), growths=(2.0,)
        )
    folder = output / "quick" if quick else output
    journal = Journal.open(folder / "deepening.json", asdict(settings))
    with servers.progress_bar(console) as progress, servers.ended_in_order() as stack:
        server = servers.started_redraft(servers.prepared_model(), settings.flags, stack, progress)
        journal.facts |= {
            "date": datetime.date.today().isoformat(),
            "command": machine.command("benchmarks.deepening"),
            "machine": machine.describe(),
            "arms": list(arms(settings)),
            "tasks": list(problems(settings)),
        }
        asyncio.run(measure(settings, server, journal, progress))
    journal.complete = True
    journal.save()
    console.print(f"[green]report:[/green] {report(journal, folder)}", highlight=False, soft_wrap=True)


HEADER = ["arm", "accuracy", "tokens a problem", "self-consistency nearest in tokens", "accuracy over it"]
NOTE = """{problems} problems a task, answers of up to {tokens} tokens at temperature {temperature}, one seed \
({seed}). Deepening has {n} samples. Tokens are those that the engine generated, all samples and rounds together. \
Intervals are 95% bootstraps over problems, of the differences in pairs; another seed would add to them."""

if __name__ == "__main__":
    typer.run(main)
