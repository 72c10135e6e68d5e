"""Whether TT-SI pays: `python -m benchmarks.ttsi`.

Every request is answered by the served weights, by weights adapted to it, at the paper's learning rate and at ten times
that, and with the pairs in the prompt instead (TT-ICL): what TT-SI makes of any threshold follows from these and the
gap that it judged by. The requests are function calls of BFCL, graded by its own checker, and an easy task of
reasoning-gym. All are asked of the served weights once more, with another seed: what flips there flips without any
training.
"""

import asyncio
import datetime
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks import bfcl, machine, servers
from benchmarks.journal import Journal
from benchmarks.load import Reply, ask, chat, client
from benchmarks.problems import Problem, from_gym, right
from benchmarks.servers import MODEL, EngineFlags, Server
from benchmarks.ttsi_report import ADAPTED, AGAIN, ARMS, HARDER, IN_CONTEXT, PLAIN, report

RESULTS = Path(__file__).parent / "results"
PARAMS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"threshold": 0},
    ADAPTED: {"threshold": 1},
    HARDER: {"threshold": 1, "learning_rate": 1e-3},
    IN_CONTEXT: {"threshold": 1, "mode": "in_context"},
    AGAIN: {"threshold": 0},
}
"""Of `ttsi`, by arm; the others are its defaults."""
PART_ENDS = {
    "uncertainty": "judge",
    "pairs": "pairs",
    "epoch": "training",
    "adapter": "loading",
    "fallback": "given up",
}
"""By the kind of the note that comes last in it: a part of a request's time."""
console = Console(stderr=True)


@dataclass(frozen=True)
class Settings:
    """What decides the numbers; a journal of other settings is not continued."""

    quick: bool = False
    seed: int = 1
    simple: int = 40
    multiple: int = 60
    longest: int = 1500
    gym: str = "gcd:max_value=20"
    problems: int = 100
    tau: float = 0.95
    tokens: int = 128
    temperature: float = 0.7
    at_once: int = 4
    adapter_slots: int = 4
    training_seconds: float = 300.0
    flags: EngineFlags = field(default_factory=EngineFlags)
    bfcl: str = bfcl.PACKAGE.version
    versions: dict[str, str] = field(default_factory=machine.versions)
    code: str = field(default_factory=machine.measured_code)

    @property
    def serving(self) -> list[str]:
        """Arguments of the server: what is asked at once can wait for its training at once."""
        return [
            *("--training", "--training-seconds", str(self.training_seconds)),
            *("--max-queued-trainings", str(self.at_once), "--adapter-slots", str(self.adapter_slots)),
        ]


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks, and how its answer is graded."""

    asked: Mapping[str, Any]
    grade: Callable[[Reply], dict[str, bool]]


@dataclass(frozen=True, slots=True)
class Task:
    """Questions of one kind.

    Attributes:
        fit: how many are short enough.
        of: how many there are.
    """

    questions: Sequence[Question]
    fit: int
    of: int


def tasks(settings: Settings) -> dict[str, Task]:
    """By name."""
    name = settings.gym.partition(":")[0]
    problems = from_gym(settings.gym, settings.problems, settings.seed)
    questions = [_of_problem(problem, settings.temperature) for problem in problems]
    return {
        "simple": _of_bfcl("simple", settings.simple, settings.longest),
        "multiple": _of_bfcl("multiple", settings.multiple, settings.longest),
        name: Task(questions, len(questions), len(questions)),
    }


def _of_bfcl(category: str, count: int, longest: int) -> Task:
    found = bfcl.items(category)
    short = [item for item in found if item.length <= longest]
    questions = [_of_item(item) for item in short[:count]]
    return Task(questions, len(short), len(found))


def _of_item(item: bfcl.Item) -> Question:
    def grade(reply: Reply) -> dict[str, bool]:
        calls = reply.calls
        return {"right": bfcl.valid(item, calls), "name": bfcl.right_name(item, calls), "called": bool(calls)}

    return Question(
        {"messages": item.messages, "tools": item.tools, "tool_choice": "required", "temperature": 0}, grade
    )


def _of_problem(problem: Problem, temperature: float) -> Question:
    messages = [{"role": "user", "content": problem.prompt}]
    return Question(
        {"messages": messages, "temperature": temperature},
        lambda reply: {"right": right(reply.text, problem.answer)},
    )


def cells(settings: Settings, found: Mapping[str, Task]) -> Iterator[tuple[str, dict[str, Any], Question]]:
    """What to ask, under its key: every arm on every question, in an order shuffled for each.

    Seeds are a question's own: with one for all, what a model happens to say to the one it says to the others, too.
    """
    for name, task in found.items():
        for position, question in enumerate(task.questions):
            draw = random.Random(f"{settings.seed} {name} {position}")
            seed, other = draw.randrange(2**31), draw.randrange(2**31)
            for arm in draw.sample(ARMS, len(ARMS)):
                key = f"{name}/{position:04}/{arm}"
                body = chat(MODEL, "", settings.tokens, min_tokens=0, ignore_eos=False, **question.asked)
                body |= {"seed": other if arm == AGAIN else seed}
                body |= {"strategy": {"name": "ttsi", "params": PARAMS[arm]}}
                # Its own cache, so that none has it warm.
                yield key, body | {"cache_salt": key.replace("/", " ")}, question


async def measure(
    settings: Settings, found: Mapping[str, Task], server: Server, journal: Journal, progress: Progress
) -> None:
    """Asks what the journal does not have yet."""
    missing = [cell for cell in cells(settings, found) if cell[0] not in journal.entries]
    bar = progress.add_task("answers", total=len(missing))
    waiting = iter(missing)
    async with client(server.url) as http:

        async def work() -> None:
            for key, body, question in waiting:
                reply = (await ask(http, body)).checked()
                journal.add(key, entry(reply, question.grade(reply), settings.tau))
                progress.advance(bar)

        async with asyncio.TaskGroup() as workers:
            for _ in range(settings.at_once):
                workers.create_task(work())


def entry(reply: Reply, grades: Mapping[str, bool], tau: float) -> dict[str, Any]:
    """What is kept of a streamed answer."""
    notes = {note["kind"]: note for _, note in reply.notes}
    losses = [note["loss"] for _, note in reply.notes if note["kind"] == "epoch"]
    gap = notes["uncertainty"]["gap"]
    return {
        **grades,
        "gap": gap,
        "uncertain": gap < tau,
        "fallback": notes.get("fallback", {}).get("reason"),
        "refused": notes.get("pairs", {}).get("refused"),
        "losses": [losses[0], losses[-1]] if losses else None,
        "answer": hashlib.sha256(repr((reply.text, reply.calls)).encode()).hexdigest()[:12],
        "finish_reason": reply.finish_reason,
        "tokens": reply.strategy["engine"]["completion_tokens"],
        "seconds": round(reply.seconds, 3),
        "parts": parts(reply),
    }


def parts(reply: Reply) -> dict[str, float]:
    """Seconds of each part of a request, by when its last note came; the answer comes after all of them."""
    ends = {PART_ENDS[note["kind"]]: seconds for seconds, note in reply.notes} | {"answer": reply.seconds}
    lasted, began = {}, 0.0
    for part, end in sorted(ends.items(), key=lambda item: item[1]):
        lasted[part], began = round(end - began, 3), end
    return lasted


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of two minutes.")] = False,
    seed: Annotated[int, typer.Option(help="Decides problems, draws and orders.")] = Settings.seed,
    simple: Annotated[int, typer.Option(help="Items of BFCL with one function.")] = Settings.simple,
    multiple: Annotated[int, typer.Option(help="Items of BFCL with several functions.")] = Settings.multiple,
    longest: Annotated[int, typer.Option(help="Characters of the longest item of BFCL.")] = Settings.longest,
    gym: Annotated[str, typer.Option(help="A reasoning-gym task, NAME or NAME:KEY=VALUE,...")] = Settings.gym,
    problems: Annotated[int, typer.Option(help="Of it.")] = Settings.problems,
    output: Annotated[Path, typer.Option(help="Folder of the report; --quick writes to quick/ in it.")] = RESULTS,
    again: Annotated[bool, typer.Option("--report", help="Only write the report again.")] = False,
) -> None:
    """Measures and writes the report."""
    settings = Settings(
        seed=seed, simple=simple, multiple=multiple, longest=longest, gym=gym, problems=problems, quick=quick
    )
    if quick:
        settings = replace(settings, simple=2, multiple=3, problems=3)
    folder = output / "quick" if quick else output
    path = folder / "ttsi.json"
    journal = Journal.read(path) if again else measured(settings, path)
    console.print(f"[green]report:[/green] {report(journal, folder)}", highlight=False, soft_wrap=True)


def measured(settings: Settings, path: Path) -> Journal:
    """The whole measurement, of which some may be in `path` already."""
    found = tasks(settings)
    journal = Journal.open(path, asdict(settings))
    with servers.progress_bar(console) as progress, servers.ended_in_order() as stack:
        server = servers.started_redraft(servers.prepared_model(), settings.flags, stack, progress, settings.serving)
        journal.facts |= {
            "date": datetime.date.today().isoformat(),
            "command": machine.command("benchmarks.ttsi"),
            "machine": machine.describe(),
            "server": server.command(),
            "tasks": {
                name: {"asked": len(task.questions), "fit": task.fit, "of": task.of} for name, task in found.items()
            },
        }
        asyncio.run(measure(settings, found, server, journal, progress))
    journal.complete = True
    journal.save()
    return journal


if __name__ == "__main__":
    typer.run(main)
