"""Problems with one checkable answer: from reasoning-gym, or from a JSONL file with questions and answers."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from math_verify import parse, verify  # type: ignore[import-untyped]

# It warns, at each call, that its time-outs are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)

INSTRUCTION = "Think step by step. End with a last line that says: The answer is X."
_FIELDS = (("question", "answer"), ("Question", "Answer"), ("input", "target"), ("problem", "answer"))


@dataclass(frozen=True, slots=True)
class Problem:
    """A question and what answers it."""

    question: str
    answer: str

    @property
    def prompt(self) -> str:
        """What a model is asked."""
        return f"{self.question}\n{INSTRUCTION}"


def from_gym(task: str, count: int, seed: int) -> list[Problem]:
    """Problems of a reasoning-gym task with its own settings, or with those behind a colon: `gcd:max_value=20,...`, as
    JSON has values.
    """
    import reasoning_gym  # type: ignore[import-untyped]

    name, _, options = task.partition(":")
    pairs = (option.split("=", 1) for option in options.split(",") if option)
    settings = {key: json.loads(value) for key, value in pairs}
    data = reasoning_gym.create_dataset(name, size=count, seed=seed, **settings)
    return [Problem(str(item["question"]), str(item["answer"])) for item in data]


def from_file(path: Path, count: int) -> list[Problem]:
    """The first problems of a JSONL file of GSM8K, SVAMP, MAWPS or AIME, as they are published.

    Raises:
        ValueError: a line has none of their pairs of fields.
    """
    found = []
    for line in path.read_text(encoding="utf-8").splitlines()[:count]:
        item = json.loads(line)
        names = next((pair for pair in _FIELDS if pair[0] in item and pair[1] in item), None)
        if names is None:
            raise ValueError(f"{path}: no question and answer in {sorted(item)}")
        question = f"{item.get('Body', '')} {item[names[0]]}".strip()
        # GSM8K's answers hold the solution, and the number behind four signs.
        found.append(Problem(question, str(item[names[1]]).rsplit("#### ", 1)[-1]))
    return found


def right(text: str, answer: str) -> bool:
    """Whether an answer's text comes down to what was asked for, as math-verify reads both."""
    # Its time-outs take signals, and these texts are too short to need one.
    said, wanted = (parse(one, parsing_timeout=None) for one in (text, answer))
    return bool(verify(wanted, said, timeout_seconds=None))
