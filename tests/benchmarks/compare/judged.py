"""Answers without a model: lines as asking writes them, and a suite that takes the item's own id for right."""

from collections.abc import Sequence
from typing import Any

from benchmarks.compare.arms import Arm
from benchmarks.compare.outcomes import Done, outcomes
from benchmarks.compare.settings import Settings
from benchmarks.suites import Answer, Item, Suite, Verdict


class Echo(Suite):
    """Items `x`, `y`, ..., each answered by its id."""

    def __init__(self, ids: str) -> None:
        super().__init__("echo", [Item(one, [{"role": "user", "content": one}], one) for one in ids])

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [Verdict.of(one.text == one.item.reference, one.text) for one in answers]


def line(arm: str, item: str, answer: int, text: str, tokens: int | None = 10, **more: Any) -> dict[str, Any]:
    """One answer."""
    usual = {
        "arm": arm,
        "item": item,
        "answer": answer,
        "block": 0,
        "busy": 0,
        "seed": 1,
        "error": None,
        "text": text,
        "calls": [],
        "first_attempt": None,
        "finish_reason": "stop",
        "tokens": {"prompt": 5, "cached": 2, "completion": tokens},
        "engine": None,
        "seconds": 1.0,
        "first_thought": None,
        "first_answer": 0.5,
    }
    return usual | more


def failed(arm: str, item: str, answer: int, said: str, **more: Any) -> dict[str, Any]:
    """One that is none."""
    nothing = {"prompt": None, "cached": None, "completion": None}
    return line(arm, item, answer, "", **{"error": said, "finish_reason": None, **more}) | {"tokens": nothing}


def block(number: int, arm: str, requests: int, completion: int | None, seconds: float = 2.0) -> dict[str, Any]:
    """What an engine counted."""
    engine = None if completion is None else {"prompt": 5 * requests, "cached": 2 * requests, "completion": completion}
    return {"block": number, "arm": arm, "requests": requests, "seconds": seconds, "busy": 0, "engine": engine}


def settings(**answers: int) -> Settings:
    """Of plain arms, with the number of answers of each."""
    arms = tuple(Arm(label=label, answers=count) for label, count in answers.items())
    return Settings(suite="echo", url="http://x", model="m", arms=arms)


def done(ids: str, lines: Sequence[dict[str, Any]], blocks: Sequence[dict[str, Any]], **answers: int) -> list[Done]:
    """What arms did."""
    return outcomes(settings(**answers), Echo(ids), lines, blocks)
