"""Runs a server with a watch on its event loop: `python -m benchmarks.watched REPORT MODULE:FUNCTION ARGUMENT...`.

The watch sleeps, and costs nothing, until SIGUSR1. Then it lets the loop beat every few milliseconds and notes how
late each beat is, what processor time the loop's thread used meanwhile, and where that thread was. SIGUSR2 ends that
and writes REPORT. A late beat with as much processor time is the server's own doing; with little, the machine was busy
or the thread waited for the interpreter's lock.
"""

import asyncio
import functools
import gc
import importlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.stats import profile

BEAT_SECONDS = 0.005
STALL_SECONDS = 0.05
KEPT_STALLS = 20
FRAMES = 6
CODE = re.compile(r"(?:.*/site-packages/|.*/lib/python[\d.]+/|.*/(?=(?:server|strategies|benchmarks)/))")


class LoopWatch:
    """Watches the loop that it is made in."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._beating: asyncio.Task[None] | None = None
        self._late: list[float] = []
        self._stalls: list[dict[str, Any]] = []
        self._pauses: list[float] = []
        self._beat = self._used = 0.0
        self._collecting = 0.0
        self._where: list[str] = []

    def install(self) -> None:
        """Makes the signals start and end it."""
        self._loop.add_signal_handler(signal.SIGUSR1, self.start)
        self._loop.add_signal_handler(signal.SIGUSR2, self.stop)

    def start(self) -> None:
        """Begins a report."""
        self._late, self._stalls, self._pauses = [], [], []
        self._beat, self._used = time.perf_counter(), time.thread_time()
        self._beating = self._loop.create_task(self._beats())
        threading.Thread(target=self._look, args=[self._beating], daemon=True).start()
        gc.callbacks.append(self._collected)

    def stop(self) -> None:
        """Ends and writes a report."""
        if self._beating is None:
            return
        self._beating.cancel()
        self._beating = None
        # The signal comes before a beat that is due at the same time.
        self._note_beat()
        gc.callbacks.remove(self._collected)
        kind = type(self._loop)
        report = {
            "loop": f"{kind.__module__}.{kind.__qualname__}",
            "beats": len(self._late),
            "late": profile(self._late),
            "stalls": len(self._stalls),
            "own_stalls": sum(stall["cpu_ms"] >= STALL_SECONDS * 1000 for stall in self._stalls),
            "worst": sorted(self._stalls, key=lambda stall: -stall["cpu_ms"])[:KEPT_STALLS],
            "collections": {"count": len(self._pauses), "longest_ms": round(max(self._pauses, default=0.0), 2)},
        }
        partial = self._report.with_suffix(".partial")
        partial.write_text(json.dumps(report))
        os.replace(partial, self._report)

    async def _beats(self) -> None:
        while True:
            self._beat, self._used, self._where = time.perf_counter(), time.thread_time(), []
            await asyncio.sleep(BEAT_SECONDS)
            self._note_beat()

    def _note_beat(self) -> None:
        late = max(0.0, time.perf_counter() - self._beat - BEAT_SECONDS)
        self._late.append(late * 1000)
        if late > STALL_SECONDS:
            cpu = time.thread_time() - self._used
            self._stalls.append({"ms": round(late * 1000, 1), "cpu_ms": round(cpu * 1000, 1), "at": self._where})

    def _look(self, beating: "asyncio.Task[None]") -> None:
        """Notes, from another thread, where the loop's thread is when a beat is overdue."""
        while not beating.done():
            time.sleep(BEAT_SECONDS)
            if not self._where and time.perf_counter() - self._beat > STALL_SECONDS:
                self._where = places(sys._current_frames().get(self._thread))

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self._pauses.append((time.perf_counter() - self._collecting) * 1000)


def places(frame: FrameType | None) -> list[str]:
    """Where a thread is, innermost call first, without paths of this machine."""
    found: list[str] = []
    while frame is not None and len(found) < FRAMES:
        found.append(f"{CODE.sub('', frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return found


def watch_runners(report: Path) -> None:
    """Gives a watch to the loop of whatever `asyncio.run` or `uvloop.run` will run in this process."""
    run: Any = asyncio.Runner.run

    @functools.wraps(run)
    def watched_run(runner: asyncio.Runner, main: Coroutine[Any, Any, Any], **more: Any) -> Any:
        async def watched() -> Any:
            LoopWatch(report).install()
            return await main

        return run(runner, watched(), **more)

    asyncio.Runner.run = watched_run  # type: ignore[assignment,method-assign]


def main() -> None:
    """Entry point of the module."""
    report, target, *arguments = sys.argv[1:]
    module, _, function = target.partition(":")
    watch_runners(Path(report))
    sys.argv[:] = [module, *arguments]
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    main()
