"""What arms are asked: suites of items, each with its prompt and its own scorer, by name.

NAME            from the Hugging Face hub, or from a package
NAME:PATH       the same suite, from a file in its published format
gym:TASK[:KEY=VALUE,...]
a task of reasoning-gym, with its own settings or these, as JSON has values
file:PATH[:question=COLUMN,answer=COLUMN]
a JSONL file with a question and an answer a line
"""

from benchmarks.suites.base import Answer, Call, Item, Suite, SuiteError, Verdict
from benchmarks.suites.names import NAMES, suite

__all__ = ["NAMES", "Answer", "Call", "Item", "Suite", "SuiteError", "Verdict", "suite"]
