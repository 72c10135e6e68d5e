"""Much work at a time, with what fails."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from rich.console import Console

from trainer.serving import all_of

CONSOLE = Console(quiet=True)


async def test_so_much_at_a_time() -> None:
    under_way: list[int] = []
    most = 0

    def work(number: int) -> Callable[[], Awaitable[None]]:
        async def one() -> None:
            nonlocal most
            under_way.append(number)
            most = max(most, len(under_way))
            await asyncio.sleep(0.001)
            under_way.remove(number)

        return one

    await all_of([work(i) for i in range(20)], 3, "working", CONSOLE)
    assert (most, under_way) == (3, [])


async def test_what_fails_ends_it_all_and_is_told_as_it_is() -> None:
    done: list[int] = []

    def work(number: int) -> Callable[[], Awaitable[None]]:
        async def one() -> None:
            if number == 2:
                raise LookupError("two")
            await asyncio.sleep(0.001)
            done.append(number)

        return one

    with pytest.raises(LookupError, match="two"):
        await all_of([work(i) for i in range(20)], 2, "working", CONSOLE)
    assert len(done) < 4
