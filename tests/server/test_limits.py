import asyncio
from contextlib import AsyncExitStack

import pytest

from server.errors import ApiError
from server.limits import RunLimiter


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_more_than_run_and_wait_is_refused() -> None:
    limiter, ended = RunLimiter(running=1, queued=1), asyncio.Event()
    order: list[int] = []

    async def run(number: int) -> None:
        async with limiter.slot():
            order.append(number)
            await ended.wait()

    tasks = [asyncio.create_task(run(number)) for number in range(2)]
    await settle()
    assert order == [0]
    with pytest.raises(ApiError) as error:
        await run(2)
    assert error.value.status == 429
    assert error.value.headers is not None
    assert int(error.value.headers["Retry-After"]) > 0
    ended.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1]


async def test_who_waits_is_served_in_order() -> None:
    limiter, order = RunLimiter(running=1, queued=4), list[int]()

    async def run(number: int) -> None:
        async with limiter.slot():
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(run(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]


async def test_who_leaves_the_queue_makes_room() -> None:
    limiter = RunLimiter(running=1, queued=1)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(limiter.slot())
        waiting = asyncio.create_task(AsyncExitStack().enter_async_context(limiter.slot()))
        await settle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        again = asyncio.create_task(AsyncExitStack().enter_async_context(limiter.slot()))
        await settle()
        assert not again.done()
        await stack.aclose()
        await asyncio.wait_for(again, 1)


async def test_a_run_that_fails_gives_its_slot_back() -> None:
    limiter = RunLimiter(running=1, queued=0)
    for _ in range(3):
        with pytest.raises(ArithmeticError):
            async with limiter.slot():
                raise ArithmeticError
    async with limiter.slot():
        pass
