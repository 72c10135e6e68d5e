"""Whether an answer is right, by a task's own measure. What is graded is text that a model wrote: it is never run.

math    math-verify, on the last answer in the text; where words are wanted, as text
exact   the last answer in the text, letter by letter but for case and white space
gym     reasoning-gym's own scorer, on the last answer in the text
"""

import ast
import logging
import multiprocessing
import os
import re
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from pebble import ProcessExpired, ProcessPool

from strategies.answers import extract_answer, last_boxed
from trainer.math_grading import alike, same
from trainer.tasks import Problem, TaskError, scorer

Grader = Literal["math", "exact", "gym"]
SECONDS = 5.0
"""For one answer: `9^9^9^9` takes for ever."""
MEMORY = 2**30
"""Bytes that one answer may allocate, in a process that grades."""
LONGEST = 4000
"""Characters of an answer, as a model says it last."""
PROBED = 8
"""Problems of which the own answers are graded, to see that a grader can."""
_MARK = re.compile(r"(?i)answer(?:\s+is\b|\s*:)\s*")
_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_FUNCTIONS = ("sin", "cos", "tan", "asin", "acos", "atan", "log", "ln", "exp", "sqrt", "Abs")
"""All that a formula may call."""


def grader_of(task: str) -> Grader:
    """That of a task by default."""
    return "gym" if task.startswith("gym:") else "math"


def said(text: str) -> list[str]:
    """The last answer in a text, as it can be read: what is boxed, or what is called the answer, to the text's end or
    the line's; else the last line that says something, or the whole text.
    """
    behind, marked, boxed = _last(text)
    if boxed is not None:
        return [boxed]
    lines = [line for line in behind.splitlines() if line.strip()]
    ways = [behind, *(lines[:1] if marked else lines[-1:])]
    return list(dict.fromkeys(_clean(way)[:LONGEST] for way in ways))


def claim(text: str) -> str:
    """The same, of one sentence: the first behind what calls it the answer, else the text's last."""
    _, marked, boxed = _last(text)
    if boxed is not None:
        return boxed
    sentences = _SENTENCES.split(said(text)[-1])
    return _clean(sentences[0] if marked else sentences[-1])


def vote(text: str) -> str | None:
    """What a text comes to where answers vote, as strategies compare them; None where it says nothing."""
    return extract_answer(text, "auto").strip() or None if text.strip() else None


def _last(text: str) -> tuple[str, bool, str | None]:
    """What stands behind the last mark of an answer, if there is one, else the text; and what is boxed in it."""
    marks = list(_MARK.finditer(text))
    behind = text[marks[-1].end() :] if marks else text
    boxed = last_boxed(behind)
    return behind, bool(marks), boxed


def right(text: str, problem: Problem, grader: Grader, score: Callable[[str, Mapping[str, Any]], float] | None) -> bool:
    """Whether a text answers a problem, in one of the ways in which its last answer can be read.

    Args:
        text: whole, as the model wrote it.
        problem: what it was asked.
        grader: how to tell.
        score: of `tasks.scorer`, for gym.
    """
    if grader == "math":
        wanted = _clean(problem.answer)
        return bool(wanted) and (any(alike(one, wanted) for one in said(text)) or same(claim(text), wanted))
    return any(_says(answer, problem, grader, score) for answer in said(text))


def _says(answer: str, problem: Problem, grader: Grader, score: Any) -> bool:
    wanted = _clean(problem.answer)
    if grader == "exact" or answer == wanted:
        return answer.casefold().split() == wanted.casefold().split()
    return bool(score(answer, problem.entry) >= 1)


def _clean(text: str) -> str:
    return text.strip().rstrip(".").strip("*$ ").rstrip(".")


def is_formula(text: str) -> bool:
    """Whether a text, read as Python, is made of numbers, names, operators and calls of a few functions alone."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    operators = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context, ast.Name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            allowed = isinstance(node.value, int | float)
        elif isinstance(node, ast.Call):
            allowed = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords
        else:
            allowed = isinstance(node, operators)
        if not allowed:
            return False
    return True


def _disarm(module: ModuleType) -> None:
    """Has a module of scorers read what it would run: Python's own evaluation, and sympy's parsers, which use it."""
    sympy = import_module("sympy")
    names = vars(module)
    for name, found in list(names.items()):
        if found is sympy:
            names[name] = _Sympy()
        elif getattr(found, "__name__", "") in ("parse_expr", "sympify") and found.__module__.startswith("sympy"):
            names[name] = _formula
    names |= {"eval": _value, "exec": _refused, "compile": _refused}


def _formula(text: str, *args: Any, **kwargs: Any) -> Any:
    from sympy.parsing.sympy_parser import parse_expr  # type: ignore[import-untyped]

    if not is_formula(text):
        raise ValueError("no formula")
    return parse_expr(text, *args, **kwargs)


def _value(text: str) -> Any:
    return eval(text, {"__builtins__": {}}) if is_formula(text) else ast.literal_eval(text)


def _refused(*args: Any, **kwargs: Any) -> Any:
    raise ValueError("nothing is run here")


class _Sympy:
    """Sympy, but for its parsers."""

    parse_expr = sympify = S = staticmethod(_formula)

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("sympy"), name)


_scorers: dict[str, Any] = {}


def _prepare(grader: Grader, task: str) -> None:
    """Loads what takes long, so that it takes nothing of the first answer's time."""
    import math_verify  # type: ignore[import-untyped]  # noqa: F401

    # It warns, at each call, that its time-outs are off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    if grader == "gym":
        score = scorer(task)
        assert score is not None
        _disarm(sys.modules[score.__module__])
        _scorers[task] = score
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # Data and stack, libraries and all.
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _graded(text: str, problem: Problem, grader: Grader, task: str) -> bool:
    try:
        return right(text, problem, grader, _scorers.get(task))
    except Exception:  # A scorer that cannot read an answer: the answer is none.
        return False


def check(problems: Sequence[Problem], grader: str, task: str) -> None:
    """Raises TaskError if a grader cannot tell that a task's own answers are right."""
    if grader not in get_args(Grader):
        raise TaskError(f"there is no grader {grader}; there are {', '.join(get_args(Grader))}")
    if grader == "gym" and not task.startswith("gym:"):
        raise TaskError(f"grader gym is for tasks of reasoning-gym, and {task} is none")
    if grader != "gym":
        return
    probed = problems[:PROBED]
    verdicts = list(_each(_scored, [(problem, task) for problem in probed], "gym", task, processes=1))
    if not all(verdicts):
        problem = probed[verdicts.index(False)]
        raise TaskError(
            f"{task}: its scorer takes {verdicts.count(False)} of {len(probed)} of the task's own answers for wrong, "
            f"{problem.answer[:80]!r} for one"
        )


def _scored(problem: Problem, task: str) -> bool:
    try:
        return bool(_scorers[task](problem.answer, problem.entry) >= 1)
    except Exception:  # Such as an entry that a file does not hold as it was.
        return False


def graded(
    texts: Iterable[tuple[str, Problem]], grader: Grader, task: str, processes: int | None = None
) -> Iterator[bool]:
    """Whether each text answers its problem, in order. One that takes too long, or kills its grader, does not.

    Args:
        texts: and the problems that they are to answer.
        grader: how to tell.
        task: of the problems.
        processes: at once; as many as there are cores by default.
    """
    calls = [(text, problem, grader, task) for text, problem in texts]
    return _each(_graded, calls, grader, task, processes or os.cpu_count() or 1)


def _each(
    function: Callable[..., bool], calls: Sequence[tuple[Any, ...]], grader: Grader, task: str, processes: int
) -> Iterator[bool]:
    context = multiprocessing.get_context("spawn")
    with ProcessPool(processes, initializer=_prepare, initargs=(grader, task), context=context) as pool:
        futures = [pool.schedule(function, args=call, timeout=SECONDS) for call in calls]
        for future in futures:
            try:
                yield future.result()
            except (TimeoutError, ProcessExpired):
                yield False
