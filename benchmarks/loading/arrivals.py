"""Requests that come when they come, and what each of them took from then on."""

import asyncio
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.peers.asking import Heard, heard


@dataclass(frozen=True, slots=True)
class Served:
    """One request.

    Attributes:
        waited: seconds from when it came to when it was sent: the load generator's own delay.
        heard: its answer, or failure.
    """

    waited: float
    heard: Heard


@dataclass(frozen=True, slots=True)
class Loaded:
    """All requests of one load.

    Attributes:
        served: in no order.
        seconds: from the start to the last answer.
    """

    served: Sequence[Served]
    seconds: float


def poisson(rate: float, count: int, seed: int) -> list[float]:
    """When so many users come, in seconds from the start, at a mean of `rate` a second, whatever they find."""
    generator = random.Random(seed)
    times, now = [], 0.0
    for _ in range(count):
        now += generator.expovariate(rate)
        times.append(now)
    return times


async def arriving(http: httpx.AsyncClient, bodies: Sequence[Mapping[str, Any]], times: Sequence[float]) -> Loaded:
    """Sends each request at its time, whether others are answered or not."""
    began = time.perf_counter()

    async def send(body: Mapping[str, Any], due: float) -> Served:
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        waited = time.perf_counter() - began - due
        return Served(waited, await heard(http, body))

    served = await asyncio.gather(*(send(body, due) for body, due in zip(bodies, times, strict=True)))
    return Loaded(served, time.perf_counter() - began)


async def staying(http: httpx.AsyncClient, bodies: Iterable[Mapping[str, Any]], users: int) -> Loaded:
    """Has so many users ask, each again as soon as it is answered, until there is nothing left to ask."""
    waiting = iter(bodies)
    served: list[Served] = []

    async def ask() -> None:
        for body in waiting:
            served.append(Served(0.0, await heard(http, body)))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(users):
            group.create_task(ask())
    return Loaded(served, time.perf_counter() - began)


def bounded(limit: float, bodies: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """The requests that are asked for within so many seconds."""
    deadline = time.perf_counter() + limit
    for body in bodies:
        if time.perf_counter() > deadline:
            return
        yield body
