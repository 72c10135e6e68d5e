"""A run as a response: whatever becomes of the response, the run ends with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from starlette.types import Message

from server.streaming import Merged, Rendered, RunResponse

SCOPE = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}


class Run:
    """Stands for a StrategyRun."""

    def __init__(self) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


async def endless(run: Run) -> AsyncIterator[int]:
    run.ready.set_result(None)
    number = 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(0.001)


async def started(heartbeat_seconds: float = 10) -> tuple[Run, Merged[int], AsyncIterator[str]]:
    run = Run()
    merged: Merged[int] = Merged(lambda sink: run, heartbeat_seconds)  # type: ignore[arg-type,return-value]
    await merged.start(endless(run))

    async def events() -> AsyncIterator[str]:
        async for item in merged:
            yield str(item.item) if isinstance(item, Rendered) else ""

    return run, merged, events()


def assert_over(run: Run, merged: Merged[int]) -> None:
    assert run.closed
    assert merged._pump is not None
    assert merged._pump.done()


async def test_a_client_that_left_before_the_first_event() -> None:
    run, merged, events = await started()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        assert message["type"] == "http.response.start"
        await asyncio.sleep(60)  # The response is cancelled here: nobody has looked at its events.

    await RunResponse(events, merged)(SCOPE, receive, send)
    assert_over(run, merged)


async def test_a_client_that_leaves_while_an_event_is_sent() -> None:
    run, merged, events = await started()
    sending = asyncio.Event()

    async def receive() -> Message:
        await sending.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            sending.set()
            await asyncio.sleep(60)

    await RunResponse(events, merged)(SCOPE, receive, send)
    assert_over(run, merged)


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_connection_that_breaks(spec_version: str) -> None:
    run, merged, events = await started()

    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: Message) -> None:
        raise OSError

    scope: dict[str, Any] = {"type": "http", "asgi": {"spec_version": spec_version}}
    with suppress(Exception):
        await RunResponse(events, merged)(scope, receive, send)
    assert_over(run, merged)


async def test_silence_gives_heartbeats() -> None:
    run = Run()
    merged: Merged[int] = Merged(lambda sink: run, 0.01)  # type: ignore[arg-type,return-value]

    async def slow() -> AsyncIterator[int]:
        run.ready.set_result(None)
        await asyncio.sleep(0.1)
        yield 1

    await merged.start(slow())
    items = [item async for item in merged]
    assert items[0] is None
    assert items[-1] == Rendered(1)
    assert_over(run, merged)


async def test_an_error_before_the_start_is_raised_at_the_start() -> None:
    run = Run()
    merged: Merged[int] = Merged(lambda sink: run, 1)  # type: ignore[arg-type,return-value]

    async def refused() -> AsyncIterator[int]:
        run.ready.set_exception(ArithmeticError())
        for number in [1]:
            raise ArithmeticError
            yield number  # type: ignore[unreachable]

    with pytest.raises(ArithmeticError):
        await merged.start(refused())
    assert_over(run, merged)
