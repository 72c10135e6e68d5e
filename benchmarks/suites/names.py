"""Suites by name."""

import random
from collections.abc import Mapping
from pathlib import Path

from benchmarks.suites.base import Suite, SuiteError
from benchmarks.suites.functions import Functions
from benchmarks.suites.human_eval import HumanEval
from benchmarks.suites.questions import PUBLISHED, Questions

ALL = 10**9
_CODE = "human_eval"
_CALLS: Mapping[str, str] = {"bfcl_simple": "simple", "bfcl_multiple": "multiple"}
NAMES = (*PUBLISHED, _CODE, *_CALLS)
"""Of suites that are published; beside them there are gym:TASK and file:PATH."""


def suite(name: str, count: int | None, seed: int, run_code: bool = False) -> Suite:
    """A suite, or so many of its items.

    Args:
        name: NAME, NAME:PATH, gym:TASK or file:PATH.
        count: of items at most; all by default.
        seed: which of them.
        run_code: whether code that a model writes may be run, in the sandbox.

    Raises:
        SuiteError: there is none, its data cannot be had, or it runs code and may not.
    """
    kind, _, path = name.partition(":")
    found = _made(name, kind, path, ALL if count is None else count, seed, run_code)
    places = sorted(random.Random(seed).sample(range(len(found.items)), min(count or ALL, len(found.items))))
    found.items = [found.items[place] for place in places]
    return found


def _made(name: str, kind: str, path: str, count: int, seed: int, run_code: bool) -> Suite:
    if kind in ("gym", "file"):
        if kind == "gym" and count == ALL:
            raise SuiteError(f"{name} has as many problems as one likes: say how many")
        return Questions(name, name, count, seed)
    if kind in PUBLISHED:
        return Questions(kind, f"file:{path}" if path else f"hub:{PUBLISHED[kind]}", count, seed)
    if kind == _CODE:
        if not run_code:
            raise SuiteError(f"{name} runs code that a model wrote, in a sandbox: allow it with --run-code")
        return HumanEval(kind, Path(path) if path else None)
    if kind in _CALLS and not path:
        return Functions(kind, _CALLS[kind])
    raise SuiteError(f"there is no suite {name}; there are {', '.join(NAMES)}, gym:TASK and file:PATH")
