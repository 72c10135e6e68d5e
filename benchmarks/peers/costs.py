"""What gateways cost: seconds, tokens, parameters lost and work for nobody. Answers are of no interest here."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.load import LoadError, client
from benchmarks.peers.arms import ARMS, Arm
from benchmarks.peers.asking import Heard, heard, left
from benchmarks.peers.gateways import Fleet
from benchmarks.peers.requests import PARAMETERS, endless
from benchmarks.peers.seen_calls import reached
from benchmarks.peers.settings import Settings
from benchmarks.peers.true_tokens import Tokens, at_rest
from benchmarks.stats import quantile


@dataclass(frozen=True)
class Step:
    """One measurement of one arm, and the key that its result is kept under."""

    key: str
    arm: Arm
    measure: Callable[[], Awaitable[dict[str, Any]]]


class Costs:
    """All of these measurements, over running gateways."""

    def __init__(self, settings: Settings, fleet: Fleet) -> None:
        self._settings = settings
        self._fleet = fleet

    def steps(self) -> Iterator[Step]:
        """Every measurement, arms in turn within a round, in an order that the seed decides."""
        s, order = self._settings, random.Random(self._settings.seed)
        plain = [arm for arm in ARMS if arm.kind == "plain"]
        votes = [arm for arm in ARMS if arm.kind == "vote"]
        both = [*plain, *votes]
        for round_ in range(s.rounds):
            yield from self._each("plain", self._plain, plain, round_, order)
            yield from self._each("vote", self._vote, votes, round_, order)
            yield from self._each("stream", self._stream, both, round_, order)
            if round_ < s.crowd_rounds:
                yield from self._each("crowd", self._crowd, both, round_, order)
            if round_ < s.leaves:
                yield from self._each("leave", partial(self._leave, False), both, round_, order)
                yield from self._each("leave stream", partial(self._leave, True), both, round_, order)
        yield from self._each("parameters", self._parameters, both, 0, order)

    def _each(
        self,
        kind: str,
        measure: Callable[[Arm, str], Awaitable[dict[str, Any]]],
        arms: Sequence[Arm],
        round_: int,
        order: random.Random,
    ) -> Iterator[Step]:
        for arm in order.sample(arms, len(arms)):
            key = f"{kind}/{arm.name}/{round_:02}"
            # A prompt that only this key makes: no prefix cache knows it.
            yield Step(key, arm, partial(measure, arm, f"{self._settings.seed} {key}"))

    def _body(self, arm: Arm, name: str, **more: Any) -> dict[str, Any]:
        return arm.body(endless(name, self._settings.words), self._settings.tokens, **more)

    async def _ask(self, arm: Arm, name: str, **more: Any) -> Heard:
        async with client(self._fleet.urls[arm.gateway]) as http:
            return (await heard(http, self._body(arm, name, **more))).checked()

    async def _plain(self, arm: Arm, name: str) -> dict[str, Any]:
        bodies = [self._body(arm, f"{name} {number}") for number in range(self._settings.plain_requests)]
        async with client(self._fleet.urls[arm.gateway]) as http:
            return {"seconds": quantile([(await heard(http, body)).checked().seconds for body in bodies], 0.5)}

    async def _vote(self, arm: Arm, name: str) -> dict[str, Any]:
        counters = self._fleet.engines[arm.engine].counters
        before = await at_rest(counters)
        answer = await self._ask(arm, name)
        true = (await at_rest(counters)).since(before)
        return {"seconds": answer.seconds, "reported": answer.reported, "true": true}

    async def _stream(self, arm: Arm, name: str) -> dict[str, Any]:
        answer = await self._ask(arm, name, stream=True)
        return {"seconds": answer.seconds, "first_byte": answer.first_byte, "first_text": answer.first_text}

    async def _crowd(self, arm: Arm, name: str) -> dict[str, Any]:
        bodies = [self._body(arm, f"{name} {number}") for number in range(self._settings.at_once)]
        async with client(self._fleet.urls[arm.gateway]) as http:
            began = time.perf_counter()
            answers = await asyncio.gather(*(heard(http, body) for body in bodies))
            seconds = time.perf_counter() - began
        if failures := [answer.error for answer in answers if answer.error]:
            raise LoadError(f"{len(failures)} of {len(answers)} failed, one by {failures[0]}")
        return {"seconds": seconds}

    async def _leave(self, stream: bool, arm: Arm, name: str) -> dict[str, Any]:
        """A whole request first; then another, whose client leaves after a part of the seconds that the first took."""
        counters = self._fleet.engines[arm.engine].counters
        before = await at_rest(counters)
        answer = await self._ask(arm, f"{name} whole", stream=stream)
        whole = (await at_rest(counters)).since(before)["completion"]
        seconds = self._settings.left_share * answer.seconds
        async with client(self._fleet.urls[arm.gateway]) as http:
            if not await left(http, self._body(arm, name, stream=stream), seconds):
                raise LoadError(f"an answer took under {seconds:.2f} s, though another took {answer.seconds:.2f}")
            then = Tokens.of(await counters())
        return {"whole": whole, "after": (await at_rest(counters)).since(then)["completion"]}

    async def _parameters(self, arm: Arm, name: str) -> dict[str, Any]:
        counters, calls = self._fleet.engines[arm.engine].counters, self._fleet.calls[arm.engine]
        found: dict[str, bool] = {}
        refused: dict[str, str] = {}
        for parameter, value in PARAMETERS.items():
            calls.new()
            try:
                await self._ask(arm, f"{name} {parameter}", **{parameter: value})
            except LoadError as error:
                refused[parameter] = str(error)
            await at_rest(counters, quiet=0.2)
            found[parameter] = reached(value, parameter, calls.new())
        return {"reached": found, "refused": refused}
