"""What decoders inside the engine's processes tell: they write it into a pipe, which is read here.

A worker writes a report before the token that it is about leaves it. So whoever has the token finds the report in the
pipe, though the token takes another way.
"""

import fcntl
import functools
import json
import logging
import os
import tempfile
from collections import defaultdict
from contextlib import suppress

from strategies.engine import Report
from strategies.reports import VARIABLE

PIPE_BYTES = 2**20
"""Some 5,000 reports may wait to be read."""
READ_BYTES = 2**16

logger = logging.getLogger("redraft.reports")


class ReportPipe:
    """A named pipe from the engine's processes, and the reports of those calls that expect some."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="redraft-")
        self.path = os.path.join(self._folder.name, "reports")
        os.mkfifo(self.path, mode=0o600)
        # For writing too: a pipe without any writer would end.
        self._pipe = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        with suppress(OSError):  # Less is allowed on some systems.
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._rest = b""
        self._expected: set[str] = set()
        self._reports: defaultdict[str, list[Report]] = defaultdict(list)

    def expect(self, name: str) -> None:
        """Keeps the reports of a call until `forget`; those of others are dropped."""
        self._expected.add(name)

    def forget(self, name: str) -> None:
        """The call is over."""
        self._expected.discard(name)
        self._reports.pop(name, None)

    def take(self, name: str) -> tuple[Report, ...]:
        """The reports of a call since the last look. Never waits."""
        self._read()
        return tuple(self._reports.pop(name, ()))

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self._pipe, READ_BYTES):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._keep(line)

    def _keep(self, line: bytes) -> None:
        try:
            report = json.loads(line)
            name = report.pop("name")
        except (ValueError, KeyError, AttributeError, TypeError):
            logger.error("an unreadable report: %r", line[:200])
            return
        if name in self._expected:
            self._reports[name].append(report)


@functools.cache
def report_pipe() -> ReportPipe:
    """The pipe of this process. Processes that are started after the first call find it by their environment."""
    pipe = ReportPipe()
    os.environ[VARIABLE] = pipe.path
    return pipe
