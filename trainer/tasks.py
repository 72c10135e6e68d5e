"""Tasks with checkable answers, by name.

gym:NAME[:KEY=VALUE,...]          a reasoning-gym task, with its own settings or these, as JSON has values
file:PATH[:KEY=VALUE,...]         JSONL with columns for question and answer, and for a worked solution if there is one
hub:ID[:SPLIT][:KEY=VALUE,...]    a Hugging Face dataset with such columns

Columns of usual names are found, others named: `question=Q,answer=A,solution=S`. So are the `config` and the `revision`
of a dataset: hub:openai/gsm8k:train:config=main.
"""

import ast
import json
import operator
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "question": ("question", "Question", "problem", "input", "prompt"),
    "answer": ("answer", "Answer", "target", "output"),
    "solution": ("solution", "rationale"),
}
"""Names of columns, by what stands in them; the first that is there counts."""


class TaskError(ValueError):
    """There is no such task, or it is of another shape."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question and what answers it."""

    id: str
    question: str
    answer: str
    solution: str | None = None
    """How to come to it."""
    entry: Mapping[str, Any] | None = None
    """What reasoning-gym's own scorer wants to know."""

    @property
    def key(self) -> str:
        """Alike for problems that ask for the same thing: no two of them are on either side of a split."""
        if self.entry is not None and (same := KEYS.get(self.entry["metadata"].get("source_dataset", ""))):
            return json.dumps(same(self.entry))
        return " ".join(self.question.casefold().split())

    @property
    def worked(self) -> str:
        """An answer as a model should write it."""
        last = f"The answer is {self.answer}."
        return last if self.solution is None else f"{self.solution}\n{last}"


def problems(task: str, count: int, seed: int) -> list[Problem]:
    """So many of a task, drawn by the seed. Raises TaskError."""
    kind, _, rest = task.partition(":")
    if kind not in _KINDS or not rest:
        raise TaskError(f"{task!r} is no task: name gym:NAME, file:PATH or hub:ID")
    return list(_KINDS[kind](rest, count, seed))


def path_of(task: str) -> Path | None:
    """Of the file or folder that a task is read from; None if it is made, or a hub's."""
    kind, _, rest = task.partition(":")
    return Path(_parted(rest, kind, COLUMNS)[0]) if kind == "file" else None


def scorer(task: str) -> Callable[[str, Mapping[str, Any]], float] | None:
    """How reasoning-gym scores an answer to an entry of a task; None for one that is not reasoning-gym's."""
    if not task.startswith("gym:"):
        return None
    score: Callable[[str, Mapping[str, Any]], float] = _dataset(task.partition(":")[2], 1, 0).score_answer
    return score


def _dataset(rest: str, count: int, seed: int) -> Any:
    """A task of reasoning-gym with its settings, which its scorer may read too. Raises TaskError."""
    import reasoning_gym  # type: ignore[import-untyped]

    name, _, options = rest.partition(":")
    try:
        # Lists have commas of their own.
        given = (one.partition("=") for one in re.split(r",(?=\w+=)", options) if one)
        settings = {key: json.loads(value) for key, _, value in given}
        return reasoning_gym.create_dataset(name, size=count, seed=seed, **settings)
    except (ValueError, TypeError, AttributeError, AssertionError) as error:
        raise TaskError(f"gym:{rest}: {error}") from error


def _of_gym(rest: str, count: int, seed: int) -> Iterator[Problem]:
    # It makes problem i of seed s as problem i + 1 of seed s - 1: near seeds would ask the same.
    data = _dataset(rest, count, random.Random(seed).randrange(2**31))
    try:
        entries = list(data)
    except (ValueError, TypeError, AssertionError) as error:
        # Some settings it refuses as late as when it makes a problem.
        raise TaskError(f"gym:{rest}: {error}") from error
    work = SOLUTIONS.get(rest.partition(":")[0])
    for i, entry in enumerate(entries):
        question, answer = str(entry["question"]), str(entry["answer"])
        solution = None if work is None else work(entry)
        # As it will be read from a file; some entries hold fractions.
        plain = json.loads(json.dumps({**entry, "metadata": entry["metadata"]}, default=str))
        yield Problem(f"{seed}/{i}", question, answer, solution, plain)


def _of_file(rest: str, count: int, seed: int) -> Iterator[Problem]:
    path, options = _parted(rest, "file", COLUMNS)
    try:
        # Lines in JSON may hold what Python takes for the end of a line.
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise TaskError(f"file:{rest}: {error}") from error
    for i in _drawn(len(rows), count, seed):
        yield _of_row(rows[i], i, options)


def _of_hub(rest: str, count: int, seed: int) -> Iterator[Problem]:
    from datasets import load_dataset  # type: ignore[import-untyped]

    path, options = _parted(rest, "hub", (*COLUMNS, "config", "revision"))
    name, _, split = path.partition(":")
    try:
        named = {key: options.pop(key, None) for key in ("config", "revision")}
        data = load_dataset(name, named["config"], split=split or "train", revision=named["revision"])
    except Exception as error:  # Whatever a hub, a network or a name makes of it.
        raise TaskError(f"hub:{rest}: {error}") from error
    for i in _drawn(len(data), count, seed):
        yield _of_row(data[i], i, options)


def _parted(rest: str, kind: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """What is named, and the options behind it."""
    path, colon, last = rest.rpartition(":")
    if not colon or "=" not in last:
        return rest, {}
    options = {key: value for key, _, value in (one.partition("=") for one in last.split(","))}
    if wrong := options.keys() - set(known):
        raise TaskError(f"{kind}:{rest}: no option {min(wrong)}; there are {', '.join(known)}")
    return path, options


def _drawn(size: int, count: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(size), min(count, size))


def _of_row(row: Mapping[str, Any], place: int, named: Mapping[str, str]) -> Problem:
    if not isinstance(row, Mapping):
        raise TaskError(f"row {place} is no object, but {str(row)[:80]!r}")
    found: dict[str, str | None] = {}
    for what, usual in COLUMNS.items():
        value = next((row[name] for name in usual if name in row), None)
        if what in named and (value := row.get(named[what])) is None:
            raise TaskError(f"row {place} has no {named[what]}, but {sorted(row)}")
        if isinstance(value, list | dict):
            raise TaskError(f"row {place}: {what} is {str(value)[:80]!r}: one text or number is wanted")
        found[what] = None if value is None else str(value)
    question, answer, solution = found["question"], found["answer"], found["solution"]
    if question is None or answer is None:
        raise TaskError(
            f"row {place} has no question and answer, but {sorted(row)}: name them, question=...,answer=..."
        )
    if "####" in answer:  # GSM8K's answers hold the solution.
        solution, _, answer = answer.rpartition("####")
    if "question" not in named:
        # SVAMP tells the story in a column of its own.
        question = f"{row.get('Body', '')} {question}".strip()
    if not (answer := answer.strip()):
        raise TaskError(f"row {place} has an empty answer, which anything or nothing would be")
    return Problem(str(place), question, answer, None if solution is None else solution.strip())


_KINDS: Mapping[str, Callable[[str, int, int], Iterator[Problem]]] = {"gym": _of_gym, "file": _of_file, "hub": _of_hub}


def running_totals(entry: Mapping[str, Any]) -> str | None:
    """A sum of many numbers, one after the other: `3 + 4 = 7`, `7 - -2 = 9`."""
    return _worked(entry["metadata"]["expression"], entry["answer"])


def steps_of(entry: Mapping[str, Any]) -> str | None:
    """An expression, one operation after the other: of `3 + 4 * 2`, `4 * 2 = 8` and `3 + 8 = 11`."""
    return _worked(entry["metadata"]["expression"], entry["metadata"]["target"])


def _worked(expression: str, total: str | int) -> str | None:
    """The operations, a line each. None if they do not come to the total: reasoning-gym rounds targets."""
    lines: list[str] = []

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            sign, operation = _OPERATIONS[type(node.op)]
            result = operation(left, right)
            lines.append(f"{left} {sign} {right} = {result}")
            return result
        if isinstance(node, ast.UnaryOp):
            assert isinstance(node.op, ast.USub)
            return -value(node.operand)
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, int)
        return Fraction(node.value)

    found = value(ast.parse(expression, mode="eval").body)
    return "\n".join(lines) if lines and found == Fraction(total) else None


_OPERATIONS: Mapping[type[ast.operator], tuple[str, Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
}
SOLUTIONS: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
    "chain_sum": running_totals,
    "countdown": steps_of,
}
"""How tasks of reasoning-gym are worked out, which gives no solutions of its own."""
KEYS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "countdown": lambda entry: [sorted(entry["metadata"]["numbers"]), entry["metadata"]["target"]],
    "gcd": lambda entry: sorted(entry["metadata"]["numbers"]),
    "lcm": lambda entry: sorted(entry["metadata"]["numbers"]),
}
"""What tasks of reasoning-gym ask for that say it in several ways, or its parts in any order."""
