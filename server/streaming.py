"""Merges what a strategy says while it works with what vLLM renders of its answer, in the order of time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from server.run import StrategyRun
from strategies.base import Event

T = TypeVar("T")
HEARTBEAT = ": still working\n\n"
"""An SSE comment: clients skip it, proxies see a live connection."""


@dataclass(frozen=True, slots=True)
class Rendered(Generic[T]):
    """An item of vLLM's rendered stream."""

    item: T


class Merged(Generic[T]):
    """One stream of thoughts and notes (Event), rendered items (Rendered), and silences (None).

    Args:
        make_run: builds the strategy run from the sink for its thoughts and notes.
        heartbeat_seconds: silence after which None comes.
    """

    def __init__(self, make_run: Callable[[Callable[[Event], None]], StrategyRun], heartbeat_seconds: float) -> None:
        self._queue: asyncio.Queue[Event | Rendered[T] | None] = asyncio.Queue()
        self._heartbeat_seconds = heartbeat_seconds
        self._pump: asyncio.Task[None] | None = None
        self.run = make_run(self._queue.put_nowait)

    async def start(self, rendered: AsyncIterator[T]) -> None:
        """Starts iterating vLLM's stream, which runs the strategy. Returns once the run is under way, so that a
        request that cannot run still gets its error status.

        Raises:
            InvalidTask: from the strategy's check.
        """
        self._pump = asyncio.create_task(self._render(rendered))
        try:
            await asyncio.wait({self.run.ready, self._pump}, return_when=asyncio.FIRST_COMPLETED)
            if self.run.ready.done():
                self.run.ready.result()
        except BaseException:
            await self.close()
            raise

    async def __aiter__(self) -> AsyncIterator[Event | Rendered[T] | None]:
        assert self._pump is not None
        try:
            while True:
                try:
                    item = await asyncio.wait_for(self._queue.get(), self._heartbeat_seconds)
                except TimeoutError:
                    yield None
                    continue
                if item is None:
                    self._pump.result()
                    return
                yield item
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends the run. Idempotent."""
        if self._pump is not None:
            self._pump.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._pump
        await self.run.close()

    async def _render(self, rendered: AsyncIterator[T]) -> None:
        try:
            async for item in rendered:
                self._queue.put_nowait(Rendered(item))
        finally:
            self._queue.put_nowait(None)


class RunResponse(StreamingResponse):
    """A run as a stream of server-sent events, which ends with the response, however that ends.

    A client that leaves before the first event, or while one is being sent, leaves nobody who would close the
    generator of the events: the run would go on until the garbage collector finds it.
    """

    def __init__(self, events: AsyncIterator[str], merged: Merged[Any]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._merged = merged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._merged.close()
