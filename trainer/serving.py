"""A checkpoint as `redraft serve` serves it, asked over HTTP: what is sampled and measured here is what users get."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clients.process import ServerProcess, free_port
from trainer.children import bound
from trainer.tasks import Problem

START_SECONDS = 900.0
REQUEST_SECONDS = 1800.0
NAME = "checkpoint"
T = TypeVar("T")


class ServeSettings(BaseModel):
    """How a checkpoint is served while it is sampled from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_once: int = Field(16, ge=1, description="Requests under way.")
    flags: tuple[str, ...] = Field((), description="Further flags of `redraft serve`.")

    @property
    def settings(self) -> dict[str, Any]:
        """What of it decides an artefact."""
        return {"flags": self.flags} if self.flags else {}


@contextmanager
def served(model: str, settings: ServeSettings, console: Console) -> Iterator[str]:
    """The address of a server of a checkpoint, to its end. Raises ServerError if it does not start."""
    port = free_port()
    flags = ["--host", "127.0.0.1", "--port", str(port), "--model", model, "--served-model-name", NAME]
    command = [sys.executable, "-m", "server.cli", "serve", *flags, *settings.flags]
    with ServerProcess(bound(command)) as process:
        with console.status(f"serving {model}"):
            process.wait_healthy(f"http://127.0.0.1:{port}/health", START_SECONDS, lambda elapsed, line: None)
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """For many requests at once."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=REQUEST_SECONDS, limits=limits) as http:
        yield http


async def asked(http: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    """The whole answer to a chat request. Raises httpx.HTTPError with what the server says of it."""
    response = await http.post("/v1/chat/completions", json={"model": NAME, **body})
    if response.is_error:
        raise httpx.HTTPStatusError(response.text[:500], request=response.request, response=response)
    answer: dict[str, Any] = response.json()
    return answer


def seed_of(seed: int, problem: Problem) -> int:
    """Of a problem's samples: with one for all, models that see little of a prompt would draw the same."""
    return random.Random(f"{seed} {problem.id}").randrange(2**31)


async def all_of(work: Sequence[Callable[[], Awaitable[None]]], at_once: int, what: str, console: Console) -> None:
    """Does it all, so much at a time, and shows how far it is. The first that fails ends it all, and is raised."""
    with progress_bar(console) as progress:
        bar = progress.add_task(what, total=len(work))
        waiting = iter(work)

        async def go_on() -> None:
            for one in waiting:
                await one()
                progress.advance(bar)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(go_on())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None


def progress_bar(console: Console) -> Progress:
    """Of a step."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
