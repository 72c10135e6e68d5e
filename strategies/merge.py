"""Generators that run side by side, read as one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from strategies.base import Event, Thought
from strategies.call import Call
from strategies.engine import Generation
from strategies.sampling import Role
from strategies.session import Session

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _End:
    """A generator has ended, or failed."""

    error: BaseException | None = None


class Merge(Generic[T]):
    """Iterate it for what its generators yield, as it comes. More may be added meanwhile, by one of them too.

    The first that fails ends the iteration with its error. However that ends, none of them runs on.
    """

    def __init__(self) -> None:
        self._items: asyncio.Queue[T | _End] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._running = 0

    def add(self, generator: AsyncGenerator[T, None]) -> None:
        """Starts one more."""
        self._running += 1
        self._tasks.append(asyncio.create_task(self._pump(generator)))

    async def __aiter__(self) -> AsyncIterator[T]:
        try:
            while self._running:
                item = await self._items.get()
                if not isinstance(item, _End):
                    yield item
                elif item.error is not None:
                    raise item.error
                else:
                    self._running -= 1
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pump(self, generator: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(generator):
                async for item in generator:
                    self._items.put_nowait(item)
            self._items.put_nowait(_End())
        except Exception as error:
            self._items.put_nowait(_End(error))


async def side_by_side(
    engine: Session, call: Call, role: Role, go_on: Callable[[Generation], AsyncGenerator[Event, None]]
) -> AsyncIterator[Event]:
    """What the branches of a call say, as thoughts, and each one's further events: it goes on at once, by itself, with
    its share of the budget.
    """
    branches = Merge[Event]()

    async def one(y: Generation) -> AsyncGenerator[Event, None]:
        async with aclosing(go_on(y)) as events:
            async for event in events:
                yield event
        engine.side_by_side -= 1

    async def begin() -> AsyncGenerator[Event, None]:
        async for piece in call:
            engine.side_by_side = engine.side_by_side or len(call.results)
            yield Thought(piece.text, role, piece.branch)
            if piece.finish_reason is not None:
                branches.add(one(call.results[piece.branch]))

    branches.add(begin())
    async for event in branches:
        yield event
