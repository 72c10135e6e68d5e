"""A server as a child process: start it, wait until it is healthy, relay its log, and stop it whatever happens."""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx

POLL_SECONDS = 0.3
STOP_SECONDS = 10.0
TAIL_BYTES = 16_384
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class ServerError(RuntimeError):
    """The server ended, or was not ready in time."""


def free_port() -> int:
    """A port of this machine that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServerProcess:
    """Runs `command` between entering and leaving. Its output goes to `log_path`, which stays only after an error."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.log_path = Path()

    def __enter__(self) -> Self:
        handle, name = tempfile.mkstemp(prefix="redraft-", suffix=".log")
        self.log_path = Path(name)
        # A session of its own: Ctrl-C reaches us alone, and we stop the server and the engine it started in order.
        with os.fdopen(handle, "wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        # Ctrl-C is a BaseException: whoever leaves that way has no use for the log.
        if kind is None or not issubclass(kind, Exception):
            self.log_path.unlink()

    @property
    def pid(self) -> int:
        """Of the process, once entered."""
        assert self._process is not None, "not entered"
        return self._process.pid

    def log_tail(self, lines: int = 1) -> list[str]:
        """The last lines of the log that say something; a progress bar's redraws count as lines."""
        with self.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = log.read().decode(errors="replace")
        said = [line.rstrip() for line in re.split(r"[\r\n]+", ANSI.sub("", text)) if line.strip()]
        return said[-lines:]

    def check(self) -> None:
        """Raise if the server has ended."""
        assert self._process is not None, "not entered"
        if (code := self._process.poll()) is not None:
            raise ServerError(f"the server ended with exit status {code}")

    def wait_healthy(self, url: str, timeout: float, progress: Callable[[float, str], None]) -> None:
        """Wait for a 200 at `url`, telling `progress` the elapsed seconds and the last line of the log."""
        started = time.monotonic()
        while not _healthy(url):
            self.check()
            elapsed = time.monotonic() - started
            if elapsed > timeout:
                raise ServerError(f"the server was not ready after {timeout:.0f} s")
            progress(elapsed, "".join(self.log_tail()))
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ask the server to end, wait, and kill what is left of its process group."""
        process = self._process
        if process is None:
            return
        self._process = None
        try:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        finally:
            # Here too when a second Ctrl-C cuts the wait short.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
