"""Whether iterative deepening is worth its tokens: `python -m benchmarks.deepening`.

A sweep of its first budget and growth against self-consistency, on the same problems, by accuracy and by the tokens
that the engine generated. All arms answer each problem, with several seeds.

No two arms take as many tokens. Self-consistency at as many as another arm's is a mixture of two of its arms: to ask
the one for some problems and the other for the rest has the mean of both, accuracy and tokens alike. Which two, is
chosen on one half of the problems and judged on the other, both ways: the best of several by the very problems that
they are judged on looks better than it is. The problems are easy ones: the default model hardly solves any other.
"""

import asyncio
import datetime
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
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
from benchmarks.report import PLOT_DPI, facts_table, number, table, write
from benchmarks.servers import MODEL, EngineFlags, Server
from benchmarks.stats import CONFIDENCE, RESAMPLES, wilson

RESULTS = Path(__file__).parent / "results"
SAMPLES = 4
VOTE = "self_consistency"
PROBLEM_SEED = 1
Numbers = np.ndarray[Any, np.dtype[np.float64]]
Rows = np.ndarray[Any, np.dtype[np.int64]]
"""Positions of problems, a draw a row."""
console = Console(stderr=True)


@dataclass(frozen=True)
class Settings:
    """What decides the numbers; a journal of other settings is not continued."""

    quick: bool = False
    seeds: tuple[int, ...] = (1, 2)
    problems: int = 40
    gym: tuple[str, ...] = (
        "gcd:max_value=20",
        "basic_arithmetic:min_terms=2,max_terms=2,min_digits=1,max_digits=1",
    )
    files: tuple[str, ...] = ()
    tokens: int = 256
    temperature: float = 0.7
    votes: tuple[int, ...] = (1, 4, 8, 16)
    first_budgets: tuple[int, ...] = (16, 48)
    growths: tuple[float, ...] = (1.5, 3.0)
    at_once: int = 8
    flags: EngineFlags = field(default_factory=EngineFlags)
    versions: dict[str, str] = field(default_factory=machine.versions)
    code: str = field(default_factory=machine.measured_code)


def arms(settings: Settings) -> dict[str, Mapping[str, Any]]:
    """The strategies by the names that the report gives them."""
    votes: dict[str, Mapping[str, Any]] = {
        f"{VOTE} of {samples}": {"name": VOTE, "params": {"samples": samples}} for samples in settings.votes
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
    gym = {task.partition(":")[0]: from_gym(task, settings.problems, PROBLEM_SEED) for task in settings.gym}
    return gym | {Path(path).stem: from_file(Path(path), settings.problems) for path in settings.files}


def cells(settings: Settings) -> Iterator[tuple[str, dict[str, Any], Problem]]:
    """What to ask, under its key: every arm on every problem with every seed, in an order shuffled for each problem."""
    strategies = arms(settings)
    for task, found in problems(settings).items():
        for seed in settings.seeds:
            for position, problem in enumerate(found):
                order = random.Random(f"{task} {seed} {position}").sample(sorted(strategies), len(strategies))
                for name in order:
                    body = chat(MODEL, problem.prompt, settings.tokens, stream=False)
                    body |= {"temperature": settings.temperature, "seed": seed, "strategy": strategies[name]}
                    body |= {"min_tokens": 0, "ignore_eos": False}
                    yield f"{task}/{position:04}/{seed}/{name}", body, problem


async def measure(settings: Settings, server: Server, journal: Journal, progress: Progress) -> None:
    """Asks what the journal does not have yet."""
    missing = [cell for cell in cells(settings) if cell[0] not in journal.entries]
    bar = progress.add_task("answers", total=len(missing))
    waiting = iter(missing)
    async with client(server.url) as http:

        async def work() -> None:
            for key, body, problem in waiting:
                reply = (await ask(http, body)).checked()
                engine, notes = reply.strategy["engine"], reply.strategy["notes"]
                entry = {
                    "right": right(reply.text, problem.answer),
                    "tokens": engine["completion_tokens"],
                    "computed": engine["prompt_tokens"] - engine["cached_tokens"],
                    "triggers": sum(note["kind"] == "trigger" for note in notes),
                    "cut": reply.finish_reason == "length",
                    "seconds": round(reply.seconds, 2),
                }
                journal.add(key, entry)
                progress.advance(bar)

        async with asyncio.TaskGroup() as workers:
            for _ in range(settings.at_once):
                workers.create_task(work())


@dataclass(frozen=True, slots=True)
class Arm:
    """What an arm did on each of P problems: means over the seeds, [P].

    Attributes:
        right: the share of right answers.
        tokens: those that the engine generated.
        computed: prompt tokens that the prefix cache did not have.
        triggers: sentences that doubted.
        cut: the share of answers that came to no end.
    """

    right: Numbers
    tokens: Numbers
    computed: Numbers
    triggers: Numbers
    cut: Numbers

    @classmethod
    def of(cls, entries: Mapping[str, Any], task: str, name: str) -> "Arm":
        """From the entries of a journal."""
        found: dict[str, list[Any]] = {}
        for key in sorted(entries):
            where, position, _, arm = key.split("/", 3)
            if (where, arm) == (task, name):
                found.setdefault(position, []).append(entries[key])

        def means(what: str) -> Numbers:
            return np.array([np.mean([entry[what] for entry in seeds]) for seeds in found.values()])

        return cls(*(means(what.name) for what in fields(cls)))

    def means(self, rows: Rows) -> "Arm":
        """The means of N draws of problems, [N]."""
        return Arm(*(getattr(self, what.name)[rows].mean(1) for what in fields(self)))


def halves(problems: int, resamples: int | None = None) -> tuple[Rows, Rows]:
    """Every other problem, and the rest: [1, half], or drawn anew within each, [resamples, half]."""
    places = np.arange(problems)
    found = (places[::2], places[1::2])
    if resamples is None:
        return found[0][None], found[1][None]
    draw = np.random.default_rng(0)
    first, second = (draw.choice(half, (resamples, len(half))) for half in found)
    return first, second


def gain(arm: Arm, votes: Sequence[Arm], drawn: tuple[Rows, Rows]) -> Numbers:
    """The accuracies of an arm over those of self-consistency at as many tokens, [N]; what takes more than all of its
    arms is compared with the dearest, and what takes less with the cheapest.
    """
    gains = np.zeros(len(drawn[0]))
    for judged, other in (drawn, drawn[::-1]):
        best, kept = np.full(len(gains), -np.inf), np.zeros(len(gains))
        there, here = [vote.means(other) for vote in votes], [vote.means(judged) for vote in votes]
        tokens = np.array([vote.tokens for vote in there])
        wanted = np.clip(arm.means(other).tokens, tokens.min(0), tokens.max(0))
        for low, high in itertools.product(range(len(votes)), repeat=2):
            between = (tokens[low] <= wanted) & (wanted <= tokens[high])
            chosen = np.where(between, _mixed(wanted, there[low], there[high]), -np.inf)
            kept = np.where(chosen > best, _mixed(arm.means(judged).tokens, here[low], here[high]), kept)
            best = np.maximum(best, chosen)
        gains += (arm.means(judged).right - kept) * judged.shape[1]
    mean: Numbers = gains / (drawn[0].shape[1] + drawn[1].shape[1])
    return mean


def _mixed(tokens: Numbers, low: Arm, high: Arm) -> Numbers:
    """The accuracy of the mixture of two arms that takes so many tokens, or comes nearest to it."""
    span = high.tokens - low.tokens
    share = np.divide(tokens - low.tokens, span, out=np.zeros_like(span), where=span > 0).clip(0, 1)
    mixed: Numbers = low.right + share * (high.right - low.right)
    return mixed


def middle(values: Numbers) -> tuple[float, float]:
    """The interval that holds CONFIDENCE of the values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def report(journal: Journal, folder: Path) -> Path:
    """Writes deepening.md and deepening.png; returns the first."""
    settings = journal.settings
    names = list(journal.facts["arms"])
    tasks = {task: {name: Arm.of(journal.entries, task, name) for name in names} for task in journal.facts["tasks"]}
    _plot(tasks, folder / "deepening.png")
    setup = {"date": journal.facts["date"], "command": f"`{journal.facts['command']}`", **journal.facts["machine"]}
    smoke = "**A smoke test (`--quick`), not a measurement.** " if settings["quick"] else ""
    path = folder / "deepening.md"
    write(
        path,
        [
            f"# Iterative deepening against self-consistency\n\n{smoke}{_note(settings)}",
            facts_table(setup),
            "![Accuracy against tokens](deepening.png)",
            *(f"## {task}\n\n{table(HEADER, _rows(found))}" for task, found in tasks.items()),
        ],
    )
    return path


def _note(settings: Mapping[str, Any]) -> str:
    names = {what: ", ".join(f"`{name}`" for name in settings[what]) or "none" for what in ("gym", "files")}
    return NOTE.format(**{**settings, **names}, n=SAMPLES)


def _rows(found: Mapping[str, Arm]) -> Iterator[list[str]]:
    votes = [arm for name, arm in found.items() if name.startswith(VOTE)]
    prices = [float(vote.tokens.mean()) for vote in votes]
    fixed = found.get(f"{VOTE} of {SAMPLES}")
    for name, arm in found.items():
        share, tokens = float(arm.right.mean()), float(arm.tokens.mean())
        low, high = wilson(share, len(arm.right))
        row = [name, f"{share:.2f} [{low:.2f}, {high:.2f}]", number(tokens), number(float(arm.computed.mean()))]
        row += [f"{float(arm.triggers.mean()):.1f}", f"{float(arm.cut.mean()):.2f}"]
        if name.startswith(VOTE):
            yield [*row, "", ""]
            continue
        once, drawn = halves(len(arm.right)), halves(len(arm.right), RESAMPLES)
        equal = _shown(gain(arm, votes, once), gain(arm, votes, drawn))
        beside = "" if fixed is None else _shown(gain(arm, [fixed], once), gain(arm, [fixed], drawn))
        outside = " (takes more than any)" if tokens > max(prices) else ""
        outside = outside or (" (takes less than any)" if tokens < min(prices) else "")
        yield [*row, f"{equal}{outside}", beside]


def _shown(mean: Numbers, resamples: Numbers) -> str:
    low, high = middle(resamples)
    return f"{mean.item():+.2f} [{low:+.2f}, {high:+.2f}]"


def _plot(tasks: Mapping[str, Mapping[str, Arm]], path: Path) -> None:
    figure = Figure(figsize=(5 * len(tasks) + 2, 4.5), layout="constrained")
    for axes, (task, found) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        voting = [arm for name, arm in found.items() if name.startswith(VOTE)]
        axes.plot(
            [arm.tokens.mean() for arm in voting], [arm.right.mean() for arm in voting], color="black", linewidth=1
        )
        for name, arm in found.items():
            mean = arm.right.mean()
            low, high = wilson(float(mean), len(arm.right))
            votes = name.startswith(VOTE)
            axes.errorbar(
                arm.tokens.mean(),
                mean,
                yerr=[[max(mean - low, 0)], [max(high - mean, 0)]],
                fmt="o" if votes else "D",
                color="black" if votes else None,
                label=None if votes and arm is not voting[0] else VOTE if votes else name,
                capsize=3,
                alpha=0.8,
            )
        axes.set(xlabel="generated tokens a problem", ylabel="accuracy", title=task)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=PLOT_DPI)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of three minutes.")] = False,
    seed: Annotated[list[int] | None, typer.Option(help="Decides the draws; may be given more than once.")] = None,
    count: Annotated[int, typer.Option("--problems", help="Of each task.")] = Settings.problems,
    gym: Annotated[
        list[str] | None,
        typer.Option(help="A reasoning-gym task, NAME or NAME:KEY=VALUE,...; may be given more than once."),
    ] = None,
    file: Annotated[list[Path] | None, typer.Option(help="A JSONL file of problems; likewise.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the report; --quick writes to quick/ in it.")] = RESULTS,
) -> None:
    """Measures and writes the report."""
    files = tuple(str(path) for path in file or ())
    settings = Settings(
        seeds=tuple(seed or Settings.seeds), problems=count, gym=tuple(gym or Settings.gym), files=files
    )
    if quick:
        settings = replace(settings, quick=True, problems=4, gym=settings.gym[:1], tokens=64)
        settings = replace(settings, votes=(1, 2), first_budgets=(24,), growths=(2.0,))
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


HEADER = [
    "arm",
    "accuracy",
    "tokens a problem",
    "prompt tokens computed",
    "triggers",
    "cut",
    "over self-consistency at as many tokens",
    f"over self-consistency of {SAMPLES}",
]
NOTE = """{problems} problems a task, answers of up to {tokens} tokens at temperature {temperature}, seeds {seeds}. \
Deepening has {n} samples. Tokens are those that the engine generated, all samples and rounds together, a problem; \
triggers are the sentences that doubted, in all samples; cut is the share of answers that came to no end. At as many \
tokens, self-consistency is a mixture of two of its arms, chosen on one half of the problems and judged on the other; \
without a prefix cache the prompt tokens would count as well. A budget counts the sentences that doubt, too. \
Intervals of accuracies are Wilson's over the \
problems, as if the seeds added nothing; those of differences are 95% bootstraps over problems, each with all of its \
seeds, the same problems for all arms: of no width where the difference is the same for all. Nothing is corrected for \
the number of arms compared. Tasks of reasoning-gym: {gym}. Files: {files}."""

if __name__ == "__main__":
    typer.run(main)
