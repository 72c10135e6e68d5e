"""How many strategy runs may be under way and waiting."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from server.errors import ApiError


class RunLimiter:
    """Lets `running` runs go at once and `queued` more wait, first come first served.

    A strategy run makes many engine calls; without this bound, a burst of them would hold up each other and all
    plain requests.
    """

    def __init__(self, running: int, queued: int) -> None:
        self._slots = asyncio.Semaphore(running)
        self._room = running + queued

    @asynccontextmanager
    async def slot(self, accepted: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
        """Waits for a slot and holds it. `accepted` is called once it is sure that there will be one.

        Raises:
            ApiError: 429, at once, if too many wait already.
        """
        if self._room == 0:
            raise ApiError(429, "too many strategy runs are waiting; try again later", headers={"Retry-After": "5"})
        self._room -= 1
        try:
            accepted()
            async with self._slots:
                yield
        finally:
            self._room += 1
