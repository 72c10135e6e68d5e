"""Every load of a measurement, kept one by one."""

import asyncio
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from rich.progress import Progress

from benchmarks import machine
from benchmarks.journal import Journal
from benchmarks.load import chat, client, prompt
from benchmarks.loading.arrivals import arriving, bounded, poisson, staying
from benchmarks.loading.summary import BenchError, Summary
from benchmarks.loading.vllm_bench import Target, measured
from benchmarks.servers import EngineFlags

PLAIN = "plain"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
LONGEST_SECONDS = 900.0
"""Of one load."""
MOST_REQUESTS = 2000
"""Of one load."""


@dataclass(frozen=True, slots=True)
class Load:
    """When requests come.

    Attributes:
        kind: at random, or as soon as one of so many users is answered.
        amount: of requests a second, or of users.
    """

    kind: Literal["rate", "users"]
    amount: float

    @property
    def name(self) -> str:
        """As reports call it."""
        return f"{self.amount:g} a second" if self.kind == "rate" else f"{self.amount:g} at a time"

    def for_vllm(self) -> list[str]:
        """As arguments of `vllm bench serve`."""
        return (
            ["--request-rate", f"{self.amount:g}"] if self.kind == "rate" else ["--max-concurrency", f"{self.amount:g}"]
        )


@dataclass(frozen=True)
class Settings:
    """What decides the numbers; a journal of other settings is not continued.

    Attributes:
        quick: whether it is a smoke test.
        seed: of prompts, arrivals and the order of loads.
        requests: of each load.
        words: of a prompt.
        tokens: of an answer, and of each sample or draft.
        loads: when requests come.
        strategies: beside plain requests.
        flags: of the engine.
    """

    quick: bool = False
    seed: int = 1
    requests: int = 24
    words: int = 40
    tokens: int = 32
    loads: tuple[Load, ...] = (Load("rate", 0.25), Load("rate", 1.0), Load("users", 4), Load("users", 16))
    strategies: tuple[str, ...] = ("self_consistency", "self_refine", "best_of_n")
    flags: EngineFlags = field(default_factory=lambda: EngineFlags(max_num_seqs=128, kv_cache_gib=2.0))
    versions: dict[str, str] = field(default_factory=machine.versions)
    code: str = field(default_factory=machine.measured_code)


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine: nothing else is put under load."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in LOOPBACK


def cells(settings: Settings) -> Iterator[tuple[str, str, Load]]:
    """The key, the strategy and the load of each measurement, in an order that the seed decides."""
    found = [
        (f"{strategy}/{load.name}", strategy, load)
        for strategy in (PLAIN, *settings.strategies)
        for load in settings.loads
    ]
    return iter(random.Random(settings.seed).sample(found, len(found)))


def measure(journal: Journal, settings: Settings, target: Target, progress: Progress) -> None:
    """Takes every measurement that the journal lacks. One that fails is kept as its failure."""
    task = progress.add_task("loads", total=len(settings.loads) * (1 + len(settings.strategies)))
    for key, strategy, load in cells(settings):
        progress.update(task, description=key)
        if key not in journal.entries:
            try:
                journal.add(key, asdict(measured_one(settings, target, strategy, load)))
            except BenchError as error:
                journal.add(key, {"error": str(error)})
            except TimeoutError:
                journal.add(key, {"error": f"not done after {LONGEST_SECONDS:.0f} s"})
        progress.advance(task)
    journal.complete = True
    journal.save()


def measured_one(settings: Settings, target: Target, strategy: str, load: Load) -> Summary:
    """One load. Raises BenchError."""
    generator = random.Random(f"{settings.seed} {strategy} {load.name}")
    prompts = [prompt(generator, settings.words) for _ in range(settings.requests)]
    if strategy == PLAIN:
        result = measured(target, prompts, settings.tokens, load.for_vllm(), LONGEST_SECONDS, settings.seed)
        return Summary.of_vllm(result)
    return asyncio.run(_ours(settings, target, [asking(target, strategy, text, settings) for text in prompts], load))


def asking(target: Target, strategy: str, text: str, settings: Settings) -> dict[str, Any]:
    """A streamed request to a strategy."""
    return chat(f"{target.model}@{strategy}", text, settings.tokens, temperature=0.7)


async def _ours(settings: Settings, target: Target, bodies: list[Mapping[str, Any]], load: Load) -> Summary:
    async with client(target.url) as http, asyncio.timeout(LONGEST_SECONDS):
        if load.kind == "rate":
            return Summary.of(await arriving(http, bodies, poisson(load.amount, len(bodies), settings.seed)))
        return Summary.of(await staying(http, bounded(LONGEST_SECONDS / 2, bodies), int(load.amount)))
