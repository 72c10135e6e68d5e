"""Watches the event loop: how long the gateway's own work keeps it from everybody else."""

import asyncio
import time

from prometheus_client import Gauge, Histogram

TICK_SECONDS = 0.01
BLOCKED = Histogram(
    "redraft_event_loop_blocked_seconds",
    "Time by which a timer of the event loop came late while the loop's own thread was computing.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
)
LONGEST = Gauge("redraft_event_loop_longest_block_seconds", "The longest of them since the server started.")


async def watch_loop() -> None:
    """Runs until cancelled. A late timer counts only as far as this thread used the CPU meanwhile: on a busy machine
    it may as well have waited for a core, which no code of the gateway can help.
    """
    longest = 0.0
    while True:
        due, cpu = time.monotonic() + TICK_SECONDS, time.thread_time()
        await asyncio.sleep(TICK_SECONDS)
        blocked = max(0.0, min(time.monotonic() - due, time.thread_time() - cpu))
        BLOCKED.observe(blocked)
        if blocked > longest:
            longest = blocked
            LONGEST.set(longest)
