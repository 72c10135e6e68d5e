"""BFCL's questions that are answered by calling a function, judged by its own checker."""

import json
from collections.abc import Sequence

from benchmarks import bfcl
from benchmarks.packages import PackageError
from benchmarks.suites.base import Answer, Item, Suite, SuiteError, Verdict


class Functions(Suite):
    """Of one category, simple or multiple: one function to call, or one of several."""

    def __init__(self, name: str, category: str) -> None:
        try:
            found = bfcl.items(category)
        except PackageError as error:
            raise SuiteError(str(error)) from error
        super().__init__(name, [Item(one.id, one.messages, one, one.tools) for one in found])

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """By the calls alone."""
        return [
            Verdict.of(bfcl.valid(one.item.reference, one.calls), json.dumps(sorted(one.calls)) if one.calls else None)
            for one in answers
        ]
