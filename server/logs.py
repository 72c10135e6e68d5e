"""Log lines that carry the id of their request, readable or one JSON object a line."""

import logging
from contextvars import ContextVar

from pythonjsonlogger.json import JsonFormatter

from server.settings import Settings

request_id: ContextVar[str] = ContextVar("request_id", default="-")


class _RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


def configure_logging(settings: Settings) -> None:
    """Sets up the root logger, and sends uvicorn's lines through it."""
    handler = logging.StreamHandler()
    handler.addFilter(_RequestIdFilter())
    fields = "%(asctime)s %(levelname)s %(name)s %(request_id)s %(message)s"
    handler.setFormatter(JsonFormatter(fields) if settings.log_format == "json" else logging.Formatter(fields))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
