"""What redraft costs over plain vLLM: `python -m benchmarks.overhead`.

Starts `redraft serve` and `vllm serve` with the same model and engine settings, measures, and writes overhead.md, its
plot and the raw numbers. What was measured is kept: a run that was cut off goes on where it was.
"""

import asyncio
import datetime
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks import machine, servers
from benchmarks.journal import Journal
from benchmarks.load import LoadError, all_of, chat, client, prompt, until
from benchmarks.overhead_report import SAMPLE_KINDS, STALL_KINDS, OverheadReport
from benchmarks.probe import probing
from benchmarks.servers import MODEL, EngineFlags, Server

RESULTS = Path(__file__).parent / "results"
SAMPLES = 5
WARM_UP_TOKENS = 16
PLAIN_STREAMS = 16
STRATEGY_STREAMS = 4
STRATEGIES = ("self_consistency", "self_refine", "best_of_n", "self_consistency")
console = Console(stderr=True)


@dataclass(frozen=True)
class Cell:
    """One load of plain requests."""

    name: str
    concurrency: int
    requests: int
    tokens: int
    words: int
    judged: bool = True
    """Whether it has aims; the load of one token only shows what a request costs once."""


@dataclass(frozen=True)
class Settings:
    """What decides the numbers; a journal of other settings is not continued."""

    quick: bool = False
    seed: int = 1
    rounds: int = 8
    cells: tuple[Cell, ...] = (
        Cell("1 stream", 1, 4, 64, 40),
        Cell("16 streams", 16, 32, 64, 40),
        Cell("16 streams, 1 token", 16, 32, 1, 10, judged=False),
    )
    idle_seconds: float = 10.0
    sample_tokens: int = 64
    prefix_repeats: int = 3
    prefix_words: int = 400
    stall_rounds: int = 3
    stall_seconds: float = 30.0
    flags: EngineFlags = field(default_factory=EngineFlags)
    versions: dict[str, str] = field(default_factory=machine.versions)
    code: str = field(default_factory=machine.measured_code)


def quick_settings(seed: int) -> Settings:
    """A smoke test of two minutes."""
    cells = (
        Cell("1 stream", 1, 1, 12, 10),
        Cell("16 streams", 16, 16, 8, 10),
        Cell("16 streams, 1 token", 16, 16, 1, 1, judged=False),
    )
    small = {"idle_seconds": 2.0, "sample_tokens": 12, "prefix_repeats": 1, "prefix_words": 150}
    return Settings(True, seed, 1, cells, **small, stall_rounds=1, stall_seconds=3.0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Step:
    """One measurement, and the key that its result is kept under."""

    key: str
    measure: Callable[[], Awaitable[Any]]


class Overhead:
    """All measurements, over two running servers."""

    def __init__(self, settings: Settings, redraft: Server, vllm: Server) -> None:
        self._settings = settings
        self._servers = {"redraft": redraft, "vllm": vllm}
        self._redraft = redraft

    def steps(self) -> Iterator[Step]:
        """Every measurement, in an order that the seed decides."""
        order = random.Random(self._settings.seed)
        yield Step("idle/0", self._idle)
        yield from self._plain_steps(order)
        for round_ in range(self._settings.rounds):
            for kind in order.sample(list(SAMPLE_KINDS), len(SAMPLE_KINDS)):
                yield Step(f"samples/{kind}/{round_:02}", partial(self._samples, kind, round_))
        for repeat in range(self._settings.prefix_repeats):
            yield Step(f"prefix/{repeat}", partial(self._prefix, repeat))
        for round_ in range(self._settings.stall_rounds):
            for kind in order.sample(list(STALL_KINDS), len(STALL_KINDS)):
                yield Step(f"stall/{kind}/{round_:02}", partial(self._stall, kind, round_))

    async def warm_up(self) -> None:
        """Lets both servers do once, in small, what they will be measured at: shapes that are new cost them time."""
        for server in self._servers.values():
            async with client(server.url) as http:
                for cell in self._settings.cells:
                    tokens = min(cell.tokens, WARM_UP_TOKENS)
                    bodies = self._bodies(f"warm-up {cell.name}", cell.concurrency, cell.words, tokens)
                    await all_of(http, bodies, cell.concurrency)

    def _plain_steps(self, order: random.Random) -> Iterator[Step]:
        rounds, cells = self._settings.rounds, self._settings.cells
        first = {cell.name: balanced(rounds, order) for cell in cells}
        for round_ in range(rounds):
            for cell in order.sample(cells, len(cells)):
                names = ("redraft", "vllm") if first[cell.name][round_] else ("vllm", "redraft")
                for name in names:
                    key = f"plain/{cell.name}/{name}/{round_:02}"
                    yield Step(key, partial(self._plain, name, cell, round_))

    def _bodies(self, name: str, count: int, words: int, tokens: int, **more: Any) -> list[dict[str, Any]]:
        """Requests whose prompts only this name and seed make, and always makes."""
        generator = random.Random(f"{self._settings.seed} {name}")
        return [chat(MODEL, prompt(generator, words), tokens, **more) for _ in range(count)]

    async def _idle(self) -> dict[str, float]:
        began = time.perf_counter()
        before = {name: server.tree_cpu() for name, server in self._servers.items()}
        await asyncio.sleep(self._settings.idle_seconds)
        used = {name: server.tree_cpu() - before[name] for name, server in self._servers.items()}
        return {"seconds": time.perf_counter() - began, **used}

    async def _plain(self, name: str, cell: Cell, round_: int) -> dict[str, Any]:
        server = self._servers[name]
        (other,) = (s for s in self._servers.values() if s is not server)
        # The same prompts for both servers.
        bodies = self._bodies(f"plain {cell.name} {round_}", cell.requests, cell.words, cell.tokens)

        def readings() -> tuple[float, float, float, float]:
            tree, beside = server.tree_cpu(), other.tree_cpu()
            return server.front_cpu(), tree, beside, servers.machine_cpu() - tree - beside - servers.own_cpu()

        async with client(server.url) as http:
            before = readings()
            load = await all_of(http, bodies, cell.concurrency)
            front, tree, beside, foreign = (after - start for after, start in zip(readings(), before, strict=True))
        expect(load.tokens, cell.requests * cell.tokens)
        return {
            "seconds": load.seconds,
            "requests": len(load.replies),
            "tokens": load.tokens,
            "prompt_tokens": sum(reply.usage["prompt_tokens"] for reply in load.replies) / len(load.replies),
            "first_token_ms": [1000 * first for first in load.first_tokens],
            "front_cpu": front,
            "tree_cpu": tree,
            "other_cpu": beside,
            "foreign_cpu": foreign,
        }

    async def _samples(self, kind: str, round_: int) -> dict[str, float]:
        tokens = self._settings.sample_tokens
        params = {"samples": SAMPLES, "early_stop": False}
        more: dict[str, dict[str, Any]] = {
            "one": {},
            "n": {"n": SAMPLES},
            "strategy": {"strategy": {"name": "self_consistency", "params": params}},
        }
        bodies = self._bodies(f"samples {kind} {round_}", 1, 40, tokens, temperature=0.8, stream=False, **more[kind])
        async with client(self._redraft.url) as http:
            load = await all_of(http, bodies, 1)
        expect(load.tokens, tokens if kind == "one" else SAMPLES * tokens)
        return {"seconds": load.replies[0].seconds}

    async def _prefix(self, repeat: int) -> dict[str, Any]:
        strategy = {"name": "self_consistency", "params": {"samples": SAMPLES, "early_stop": False}}
        more = {"temperature": 0.8, "stream": False, "strategy": strategy}
        bodies = self._bodies(f"prefix {repeat}", 1, self._settings.prefix_words + repeat, 8, **more)
        before = await self._redraft.counters()
        async with client(self._redraft.url) as http:
            reply = (await all_of(http, bodies, 1)).replies[0]
        # The engine sends its counters with its next outputs; the last ones may be under way.
        await asyncio.sleep(0.5)
        after = await self._redraft.counters()
        gained = {
            name: after[counter] - before[counter]
            for name, counter in (
                ("queries", "vllm:prefix_cache_queries_total"),
                ("hits", "vllm:prefix_cache_hits_total"),
            )
        }
        return {
            "prompt_tokens": reply.usage["prompt_tokens"],
            "engine": dict(reply.strategy["engine"]),
            "counters": gained,
        }

    async def _stall(self, kind: str, round_: int) -> dict[str, Any]:
        server = self._servers["vllm" if kind == "vllm" else "redraft"]
        generator = random.Random(f"{self._settings.seed} stall {kind} {round_}")
        plain = (chat(MODEL, prompt(generator, 40), 64) for _ in itertools.count())
        async with client(server.url) as http, probing(server.url) as seen:
            server.start_watch()
            deadline = time.perf_counter() + self._settings.stall_seconds
            loads = [all_of(http, until(deadline, plain), PLAIN_STREAMS)]
            if kind == "mixed":
                loads.append(all_of(http, until(deadline, questions(generator)), STRATEGY_STREAMS))
            done = await asyncio.gather(*loads)
            watch = await server.stop_watch()
        expect(seen.failures, 0)
        return {
            "replies": [len(load.replies) for load in done],
            "probes": seen.answers,
            "health": seen.latency,
            "lateness": seen.lateness,
            "watch": watch,
        }


def questions(generator: random.Random) -> Iterator[dict[str, Any]]:
    """Requests to the strategies in turn, each with a sum to do."""
    for name in itertools.cycle(STRATEGIES):
        text = f"A book costs {generator.randint(2, 99)} dollars. How much do {generator.randint(2, 99)} books cost?"
        yield chat(f"{MODEL}@{name}", text, 48, min_tokens=0, ignore_eos=False, temperature=0.8)


def balanced(rounds: int, order: random.Random) -> list[bool]:
    """As many True as False, one more at most, in random order."""
    extra = [order.random() < 0.5] * (rounds % 2)
    values = [True, False] * (rounds // 2) + extra
    order.shuffle(values)
    return values


def expect(found: float, wanted: float) -> None:
    """Raises LoadError if a count is not what the measurement rests on."""
    if found != wanted:
        raise LoadError(f"{found} where {wanted} was expected: nothing can be concluded from this measurement")


async def measure(journal: Journal, settings: Settings, redraft: Server, vllm: Server, progress: Progress) -> None:
    """Takes every measurement that the journal lacks."""
    overhead = Overhead(settings, redraft, vllm)
    steps = list(overhead.steps())
    task = progress.add_task("warming up", total=len(steps))
    await overhead.warm_up()
    for step in steps:
        progress.update(task, description=step.key)
        if step.key not in journal.entries:
            redraft.check()
            vllm.check()
            await servers.settled((redraft, vllm))
            journal.add(step.key, await step.measure())
        progress.advance(task)
    journal.complete = True
    journal.save()


def note_facts(journal: Journal, redraft: Server, vllm: Server) -> None:
    """Keeps what the report says of the machine and the servers."""
    journal.facts |= {
        "sessions": journal.facts["sessions"] + 1,
        "date": datetime.date.today().isoformat(),
        "command": machine.command("benchmarks.overhead"),
        "machine": machine.describe(),
        "commands": {server.name: server.command() for server in (redraft, vllm)},
        "variables": redraft.engine_variables(),
        "differences": servers.differences(redraft.engine_config(), vllm.engine_config()),
    }
    journal.save()


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of two minutes.")] = False,
    seed: Annotated[int, typer.Option(help="Decides prompts and orders.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of plain requests and of samples.")] = 8,
    output: Annotated[Path, typer.Option(help="Folder of the report; --quick writes to quick/ in it.")] = RESULTS,
    report: Annotated[bool, typer.Option("--report", help="Only write the report again.")] = False,
) -> None:
    """Measure what redraft costs over plain vLLM, and report it."""
    settings = quick_settings(seed) if quick else Settings(seed=seed, rounds=rounds)
    folder = output / "quick" if quick else output
    path = folder / "overhead.json"
    if report:
        journal = Journal.read(path)
    else:
        journal = Journal.open(path, asdict(settings))
        with servers.progress_bar(console) as progress, servers.ended_in_order() as stack:
            model = servers.prepared_model()
            redraft = servers.started_redraft(model, settings.flags, stack, progress)
            vllm = servers.started_vllm(model, settings.flags, redraft, stack, progress)
            note_facts(journal, redraft, vllm)
            asyncio.run(measure(journal, settings, redraft, vllm, progress))
    written = OverheadReport(journal).write(folder)
    console.print(f"[green]report:[/green] {written}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
