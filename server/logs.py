"""Log lines that carry the id of their request, readable or one JSON object a line, from the engine's processes too."""

import contextlib
import io
import json
import logging
import logging.config
import os
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.json import JsonFormatter
from typing_extensions import override

from server.settings import Settings

VLLM_CONFIG_VARIABLE = "VLLM_LOGGING_CONFIG_PATH"
FIELDS = "%(asctime)s %(levelname)s %(processName)s %(name)s %(request_id)s %(message)s"

OWN_HANDLERS = ("vllm", "uvicorn", "uvicorn.error", "uvicorn.access", "torch")
"""Loggers that bring handlers of their own."""

TALKATIVE = ("httpx", "httpcore")
"""Loggers that tell of every request, and at the level of debugging of its parts."""

request_id: ContextVar[str] = ContextVar("request_id", default="-")


class RequestIdFilter(logging.Filter):
    """Adds `request_id` to records."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


def make_formatter(log_format: str) -> logging.Formatter:
    """The formatter of a `log_format`; warnings that Python prints become records as well."""
    logging.captureWarnings(True)
    return JsonFormatter(FIELDS) if log_format == "json" else logging.Formatter(FIELDS)


@contextlib.contextmanager
def configured_logging(settings: Settings) -> Iterator[None]:
    """Sets up logging here and, by a file that vLLM reads at its start, in the engine's processes."""
    config = logging_config(settings)
    logging.config.dictConfig(config)
    with tempfile.NamedTemporaryFile("w", prefix="redraft-logging-", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        os.environ.setdefault(VLLM_CONFIG_VARIABLE, file.name)
        yield


def logging_config(settings: Settings) -> dict[str, Any]:
    """For logging.config.dictConfig: one handler at the root, and loggers that bring their own sent through it."""
    sent_on = {"handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": f"{__name__}.{RequestIdFilter.__name__}"}},
        "formatters": {"line": {"()": f"{__name__}.{make_formatter.__name__}", "log_format": settings.log_format}},
        "handlers": {"line": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request_id"]}},
        "loggers": {
            **dict.fromkeys(OWN_HANDLERS, sent_on),
            **{name: {"level": "WARNING"} for name in TALKATIVE},
        },
        "root": {"level": settings.log_level.upper(), "handlers": ["line"]},
    }


def take_over() -> None:
    """Sends on what libraries log that were imported since."""
    for name in OWN_HANDLERS:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


class LogFile(io.TextIOBase):
    """Takes what is printed as log lines: for a console where every line is to be JSON."""

    @override
    def write(self, text: str) -> int:
        for line in filter(str.strip, text.splitlines()):
            logging.getLogger("redraft").info(line.rstrip())
        return len(text)
