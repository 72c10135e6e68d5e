"""Whether a replica is asked: closed while it answers, open while it is down, half-open while one look is taken."""

import sys
import time
from collections.abc import Callable

FAILURES = 3
"""In a row that open a circuit."""
COOLDOWN_SECONDS = 1.0
MAX_COOLDOWN_SECONDS = 60.0


class Circuit:
    """The state of one replica.

    Args:
        failures: in a row that open it.
        cooldown: seconds from opening to the first look; doubled by each look that fails.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        failures: int = FAILURES,
        cooldown: float = COOLDOWN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures
        self._first_cooldown = self._cooldown = cooldown
        self._clock = clock
        self._failures = 0
        self._opened: float | None = None
        self._looking = False
        self._probation = False
        """A look was well, and no request was since: one that fails is enough."""

    @property
    def closed(self) -> bool:
        """Whether requests go to it."""
        return self._opened is None

    @property
    def due(self) -> bool:
        """Whether it has been open for long enough that somebody should look, and nobody does."""
        return self._opened is not None and not self._looking and self._clock() - self._opened >= self._cooldown

    def succeed(self) -> None:
        """A request was answered. One that began before the circuit opened does not close it."""
        if self.closed:
            self._failures, self._cooldown, self._probation = 0, self._first_cooldown, False

    def fail(self, *, fatal: bool = False) -> None:
        """A request failed by the replica's fault; `fatal` opens at once."""
        self._failures += 1
        if self.closed and (fatal or self._failures >= self._limit):
            self._opened = self._clock()
            if self._probation:
                self._cooldown = min(self._cooldown * 2, MAX_COOLDOWN_SECONDS)

    def look(self) -> None:
        """Half-open: somebody looks, and nobody else does."""
        self._looking = True

    def looked(self, well: bool) -> None:
        """What the look found."""
        self._looking = False
        if well:
            # A server answers a look though its engine hangs: a request has to show that it is well.
            self._opened, self._probation = None, True
            self._failures = 0 if self._limit == sys.maxsize else self._limit - 1
        else:
            self._opened = self._clock()
            self._cooldown = min(self._cooldown * 2, MAX_COOLDOWN_SECONDS)
