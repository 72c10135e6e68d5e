"""A process beside the event loop for work that may take too long, and may have to be killed."""

import asyncio
import atexit
import multiprocessing
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

JUDGE_SECONDS = 2.0
T = TypeVar("T")


class Undecided(Exception):
    """It took longer than JUDGE_SECONDS, or its process died, or did not start."""


ANSWERS, SCHEMAS = "answers", "schemas"
"""Judges: those who wait for one do not wait for the other."""


async def judged(function: Callable[..., T], *args: Any, pool: str = ANSWERS) -> T:
    """What a function of a module makes of its arguments, there. Raises Undecided, or what the function raises."""
    future = _judge(pool).schedule(function, args=args, timeout=JUDGE_SECONDS)
    try:
        return await asyncio.wrap_future(future)
    except (TimeoutError, ProcessExpired, BrokenProcessPool):
        raise Undecided from None


_JUDGES: dict[str, ProcessPool] = {}


def _judge(name: str) -> ProcessPool:
    """One process for each name: sympy may take seconds, and so may a pattern of somebody's schema. One that could not
    start is no longer active, and makes room for another.
    """
    if name not in _JUDGES or not _JUDGES[name].active:
        context = multiprocessing.get_context("spawn")
        _JUDGES[name] = ProcessPool(max_workers=1, initializer=_PREPARE[name], context=context)
        atexit.register(_JUDGES[name].stop)
    return _JUDGES[name]


def _prepare_answers() -> None:
    from math_verify import parse, verify  # type: ignore[import-untyped]

    verify(*(parse(f"${text}$", parsing_timeout=None) for text in "xy"), timeout_seconds=None)


def _prepare_schemas() -> None:
    import jsonschema  # noqa: F401


_PREPARE = {ANSWERS: _prepare_answers, SCHEMAS: _prepare_schemas}
"""Load what takes long before the first task, so that it takes nothing of JUDGE_SECONDS, after a kill either."""
