"""What a suite is."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

_NUMBER = re.compile(r"-?\d[\d,]{0,40}(?:\.\d{1,40})?(?:/\d{1,40})?")
"""Of bounded length: none takes long to read."""
Call = tuple[str, str]
"""The name of a called function, and its arguments as JSON."""


class SuiteError(ValueError):
    """There is no such suite, its data cannot be had, or they are of another shape."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question.

    Attributes:
        id: its own within the suite.
        messages: the conversation that asks it.
        reference: what its suite's scorer wants to know.
        tools: functions that the answer may call.
    """

    id: str
    messages: Sequence[Mapping[str, Any]]
    reference: Any
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said to an item.

    Attributes:
        item: that was asked.
        text: whole.
        calls: of functions.
    """

    item: Item
    text: str
    calls: Sequence[Call] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a scorer makes of an answer.

    Attributes:
        right: whether it is.
        vote: what it comes to, alike for all right ones; None where it comes to nothing.
    """

    right: bool
    vote: str | None

    @classmethod
    def of(cls, right: bool, said: str | None) -> "Verdict":
        """Of what an answer comes to: right ones vote together, and wrong ones that write the same, or one number."""
        if right:
            return cls(True, "=")
        said = " ".join((said or "").casefold().split())
        if _NUMBER.fullmatch(number := said.lstrip("$ ")):
            with suppress(ZeroDivisionError):
                said = str(Fraction(number.replace(",", "")))
        return cls(False, f"!{said}" if said else None)


class Suite(ABC):
    """Items with their scorer.

    Attributes:
        name: as it was asked for.
        items: in the order in which they are asked.
    """

    def __init__(self, name: str, items: Sequence[Item]) -> None:
        self.name = name
        self.items = items

    @abstractmethod
    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Scores answers, whatever a model wrote in them."""


def user(text: str) -> list[dict[str, str]]:
    """A conversation of one question."""
    return [{"role": "user", "content": text}]
