"""A process beside the event loop for work that may take too long, and may have to be killed."""

import asyncio
import atexit
import multiprocessing
from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

from pebble import ProcessExpired, ProcessPool

JUDGE_SECONDS = 2.0
P = ParamSpec("P")
T = TypeVar("T")


class Undecided(Exception):
    """It took longer than JUDGE_SECONDS, or its process died."""


async def judged(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function of a module makes of its arguments, there. Raises Undecided, or what the function raises."""
    future = _judge().schedule(function, args=args, kwargs=kwargs, timeout=JUDGE_SECONDS)
    try:
        return await asyncio.wrap_future(future)
    except (TimeoutError, ProcessExpired):
        raise Undecided from None


@cache
def _judge() -> ProcessPool:
    """One process: sympy may take seconds, and so may a pattern of somebody's schema."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=1, initializer=_prepare, context=context)
    atexit.register(pool.stop)
    return pool


def _prepare() -> None:
    """Loads what takes long before the first task, so that it takes nothing of JUDGE_SECONDS, after a kill either."""
    import jsonschema  # noqa: F401
    from math_verify import parse, verify  # type: ignore[import-untyped]

    verify(*(parse(f"${text}$", parsing_timeout=None) for text in "xy"), timeout_seconds=None)
