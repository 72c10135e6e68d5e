"""How often gateways are right, and for how many tokens: all arms on the same items of one task."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.load import client
from benchmarks.peers.arms import ARMS, DIRECT, Arm
from benchmarks.peers.asking import Heard, heard
from benchmarks.peers.costs import Step
from benchmarks.peers.gateways import Fleet
from benchmarks.peers.settings import Settings
from benchmarks.peers.true_tokens import at_rest
from benchmarks.suites import Answer, Item, Suite


def by_hand(samples: int) -> Arm:
    """Samples of plain vLLM, to be voted on by hand: what any gateway is compared with, at as many tokens."""
    return Arm(DIRECT.gateway, f"{samples} samples", "technique", more={"n": samples})


class Answers:
    """All items for all arms, in blocks."""

    def __init__(self, settings: Settings, fleet: Fleet, suite: Suite) -> None:
        self._settings = settings
        self._fleet = fleet
        self._suite = suite

    def steps(self) -> Iterator[Step]:
        """A block for one arm after the other, in an order that the seed decides; then the next block."""
        order = random.Random(self._settings.seed)
        arms = [by_hand(self._settings.samples), *(arm for arm in ARMS if arm.gateway != DIRECT.gateway)]
        items = self._suite.items
        for start in range(0, len(items), self._settings.block):
            block = items[start : start + self._settings.block]
            for arm in order.sample(arms, len(arms)):
                yield Step(f"answers/{arm.name}/{start:04}", arm, partial(self._block, arm, block))

    async def _block(self, arm: Arm, block: Sequence[Item]) -> dict[str, Any]:
        counters = self._fleet.engines[arm.engine].counters
        before = await at_rest(counters)
        said = await self._asked(arm, block)
        true = (await at_rest(counters)).since(before)
        # Of an arm with several samples, each is judged.
        pairs = [(item, text) for item, one in zip(block, said, strict=True) for text in one.texts]
        verdicts = iter(self._suite.judge([Answer(item, text) for item, text in pairs]))
        judged = [[[v.right, v.vote] for v in (next(verdicts) for _ in one.texts)] for one in said]
        reported = [one.reported for one in said]
        return {
            "judged": judged,
            "errors": [one.error for one in said if one.error],
            "seconds": [round(one.seconds, 3) for one in said],
            "reported": {kind: sum(one[kind] for one in reported) for kind in ("prompt", "completion")},
            "true": true,
        }

    async def _asked(self, arm: Arm, block: Sequence[Item]) -> list[Heard]:
        free = asyncio.Semaphore(self._settings.items_at_once)

        async with client(self._fleet.urls[arm.gateway]) as http:

            async def ask(item: Item) -> Heard:
                async with free:
                    return await heard(http, arm.body(item.messages[-1]["content"], self._settings.answer_tokens))

            return list(await asyncio.gather(*map(ask, block)))
