"""`redraft serve`, for as long as a comparison takes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from benchmarks.compare.errors import CompareError
from benchmarks.compare.settings import Settings
from clients.process import ServerError, ServerProcess, free_port

START_SECONDS = 900.0
TAIL = 5


@contextmanager
def served(settings: Settings, console: Console) -> Iterator[str | None]:
    """The address where the run's own arms ask: of a server that is started, or of the one that is there.

    Raises:
        CompareError: it does not start; with the end of its log.
    """
    if settings.serve is None:
        yield settings.url
        return
    port = free_port()
    named = ["--model", settings.serve, "--served-model-name", settings.served_name]
    flags = ["--host", "127.0.0.1", "--port", str(port), *named, *settings.serve_flags]
    with ServerProcess([sys.executable, "-m", "server.cli", "serve", *flags]) as process:
        with console.status(f"serving {settings.serve}") as status:
            try:
                process.wait_healthy(
                    f"http://127.0.0.1:{port}/health",
                    START_SECONDS,
                    lambda seconds, line: status.update(f"serving {settings.serve} ({seconds:.0f} s)"),
                )
            except ServerError as error:
                raise CompareError("\n".join([f"{settings.serve}: {error}", *process.log_tail(TAIL)])) from error
        yield f"http://127.0.0.1:{port}"
