"""In which order a comparison asks: blocks of one arm each, interleaved, so that what changes on the way meets all."""

import hashlib
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.compare.arms import Arm
from benchmarks.compare.errors import CompareError
from benchmarks.compare.settings import Settings
from benchmarks.suites import Item

Key = tuple[str, str, int]
"""The label of an arm, the id of an item, and which of the arm's answers to it, from 0."""


@dataclass(frozen=True, slots=True)
class Block:
    """Requests of one arm that run alone.

    Attributes:
        arm: whose.
        asked: items, each with which of the arm's answers to it.
    """

    arm: Arm
    asked: Sequence[tuple[Item, int]]

    def without(self, there: Collection[Key]) -> "Block":
        """What of it has no answer yet."""
        return Block(self.arm, [(item, i) for item, i in self.asked if (self.arm.label, item.id, i) not in there])


def plan(settings: Settings, items: Sequence[Item]) -> list[Block]:
    """All blocks in their order: of so many items at a time, one for each arm, arms and requests shuffled by the seed.

    Raises:
        CompareError: two items have one id.
    """
    if len({item.id for item in items}) < len(items):
        raise CompareError(f"{settings.suite} has two items of the same id")
    draw = random.Random(f"order {settings.seed}")
    blocks = []
    for start in range(0, len(items), settings.block):
        some = items[start : start + settings.block]
        for arm in draw.sample(settings.arms, len(settings.arms)):
            asked = [(item, i) for item in some for i in range(settings.answers_of(arm))]
            blocks.append(Block(arm, draw.sample(asked, len(asked))))
    return blocks


def seed_of(seed: int, item: Item, answer: int) -> int:
    """Of a request, alike for all arms: a 31-bit hash of (seed, item, which answer)."""
    digest = hashlib.blake2b(f"{seed}/{item.id}/{answer}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def body(settings: Settings, arm: Arm, item: Item, answer: int) -> dict[str, Any]:
    """A streamed chat completion."""
    return {
        settings.limit_field: settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        **arm.fields(),
        "model": settings.model_of(arm),
        "messages": list(item.messages),
        **({"tools": list(item.tools)} if item.tools else {}),
        "seed": seed_of(settings.seed, item, answer),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
