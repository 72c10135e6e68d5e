"""How a decoder inside the engine's processes tells what it did: lines of JSON in a pipe that the server reads."""

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from strategies.engine import Report

VARIABLE = "REDRAFT_REPORTS"
"""Environment variable with the path of the pipe."""
OWN_ARGUMENTS = "redraft_"
"""How the names of extra arguments begin that the server adds, and no client may write."""
ARGUMENT = f"{OWN_ARGUMENTS}report"
"""Name among a call's extra arguments, for the name under which its reports are kept."""

logger = logging.getLogger("vllm.redraft")


class ReportWriter:
    """The engine's end of the pipe. A line that is short enough reaches it whole, whoever else writes.

    Args:
        path: a named pipe, None where nobody listens.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = os.environ.get(VARIABLE) if path is None else path
        self._pipe: int | None = None

    def write(self, arguments: Mapping[str, Any] | None, report: Report) -> None:
        """Writes a line at once, before the token that it is about leaves this process, if the call's arguments ask
        for reports. Never waits: a server that does not read must not stop the engine.
        """
        name = (arguments or {}).get(ARGUMENT)
        if self._path is None or not isinstance(name, str):
            return
        try:
            if self._pipe is None:
                self._pipe = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            os.write(self._pipe, json.dumps({"name": name[:128], **report}).encode() + b"\n")
        except OSError as error:
            logger.error("a report is lost: %s", error)
