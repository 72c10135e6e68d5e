"""The Berkeley Function Calling Leaderboard: its questions as requests, its own checker for the answers.

Its package is unpacked, not installed: it pins versions that do not go with ours. The checker imports handlers of
models and parsers of Java and JavaScript, which questions about Python functions never reach.
"""

import functools
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

from benchmarks.packages import Package

PACKAGE = Package("bfcl_eval", "2026.3.23", "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a")
FILES = {"simple": "BFCL_v4_simple_python.json", "multiple": "BFCL_v4_multiple.json"}
"""By category: one function to call, or one of several."""
ASKED_AS = "redraft"
"""The name under which the checker finds what `STAND_INS` say of the model."""
STAND_INS: Mapping[str, Mapping[str, Any]] = {
    "constants.model_config": {"MODEL_CONFIG_MAPPING": {ASKED_AS: SimpleNamespace(underscore_to_dot=True)}},
    "eval_checker.ast_eval.type_convertor.java_type_converter": {"java_type_converter": None},
    "eval_checker.ast_eval.type_convertor.js_type_converter": {"js_type_converter": None},
}
"""What the checker imports and does not need, by module."""
JSON_TYPES = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "any": "string",
    "bool": "boolean",
    "list": "array",
}
"""Those of JSON schema for the suite's own."""
KNOWN_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean"})

Call = tuple[str, str]
"""The name of a called function, and its arguments as JSON."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question with the functions that it may call.

    Attributes:
        functions: their descriptions as the suite has them.
        answer: the function to call, and of each parameter the values that are right.
    """

    id: str
    category: str
    messages: Sequence[Mapping[str, Any]]
    functions: Sequence[Mapping[str, Any]]
    answer: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, category: str, question: Mapping[str, Any], answer: Mapping[str, Any]) -> Self:
        """From a line of the suite's questions and one of its answers. Raises ValueError if they are of two items."""
        if question["id"] != answer["id"]:
            raise ValueError(f"what should answer {question['id']} answers {answer['id']}")
        (messages,) = question["question"]
        return cls(question["id"], category, messages, question["function"], answer["ground_truth"])

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The functions as OpenAI's API takes them."""
        return [tool(function) for function in self.functions]

    @property
    def length(self) -> int:
        """Characters of question and tools, as JSON."""
        return len(json.dumps([self.messages, self.tools], ensure_ascii=False))


def items(category: str) -> list[Item]:
    """All of a category; fetches the suite if need be. Raises PackageError."""
    data = PACKAGE.fetched() / PACKAGE.name / "data"
    questions, answers = (_lines(folder / FILES[category]) for folder in (data, data / "possible_answer"))
    return [Item.of(category, question, answer) for question, answer in zip(questions, answers, strict=True)]


def tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function's description as OpenAI's API takes it, as the suite's own handlers write it."""
    described = {**function, "name": _offered(function["name"]), "parameters": _schema(function["parameters"])}
    return {"type": "function", "function": described}


def valid(item: Item, calls: Sequence[Call]) -> bool:
    """Whether the suite's checker takes the calls of an answer for right."""
    checker, language = _checker()
    try:
        called = [{name: json.loads(arguments)} for name, arguments in calls]
        verdict = checker(item.functions, called, item.answer, language, item.category, ASKED_AS)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError):
        return False  # Arguments of a shape that it does not expect.
    return bool(verdict["valid"])


def right_name(item: Item, calls: Sequence[Call]) -> bool:
    """Whether an answer calls the right function, once and nothing else, whatever its arguments."""
    (name,) = item.answer[0]
    return [called for called, _ in calls] == [_offered(name)]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _offered(name: str) -> str:
    """A function's name without what OpenAI's API refuses in one; the checker knows it so, too."""
    return re.sub(r"\.", "_", name)


def _schema(described: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema of the suite's description of a value, or of all parameters."""
    kind = described.get("type", "any")
    named = JSON_TYPES.get(kind, kind)
    schema = {**described, "type": named if named in KNOWN_TYPES else "string"}
    if "properties" in described:
        schema["properties"] = {name: _parameter(value) for name, value in described["properties"].items()}
    if "items" in described:
        schema["items"] = _schema(described["items"])
    return schema


def _parameter(described: Mapping[str, Any]) -> dict[str, Any]:
    schema = _schema(described)
    if described.get("type") == "float":
        schema |= {"format": "float", "description": described.get("description", "") + " This is a float type value."}
    return schema


@functools.cache
def _checker() -> tuple[Callable[..., Mapping[str, Any]], Any]:
    """The suite's checker, and what it calls Python."""
    with _importable(PACKAGE.fetched()):
        checker = importlib.import_module(f"{PACKAGE.name}.eval_checker.ast_eval.ast_checker").ast_checker
        language = importlib.import_module(f"{PACKAGE.name}.constants.enums").Language.PYTHON
    return checker, language


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The suite can be imported from a folder, and leaves nothing behind in the interpreter."""
    before = _taken_out()
    for name, content in STAND_INS.items():
        module = ModuleType(f"{PACKAGE.name}.{name}")
        vars(module).update(content)
        sys.modules[module.__name__] = module
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _taken_out()
        sys.modules.update(before)


def _taken_out() -> dict[str, ModuleType]:
    """The suite's modules that are imported, which then are not."""
    names = [name for name in sys.modules if name.partition(".")[0] == PACKAGE.name]
    return {name: sys.modules.pop(name) for name in names}
