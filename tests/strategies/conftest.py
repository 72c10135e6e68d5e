"""Fixtures of the strategies' tests."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.strategies.scripted import Clock

LONGEST_SECONDS = 60.0


@pytest.fixture(autouse=True)
async def no_endless_wait() -> AsyncIterator[None]:
    """A stream that never ends fails its test, and does not hold up the rest."""
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel("the test took too long")

    timer = loop.call_later(LONGEST_SECONDS, cancel)
    yield
    timer.cancel()


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the test's event loop."""
    loop = asyncio.get_running_loop()
    clock = Clock(loop)
    monkeypatch.setattr(loop, "time", clock.time)
    return clock
