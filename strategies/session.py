"""The engine as one request may use it: counted, bounded by a budget and a deadline, and stopped when it is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from strategies.base import Answer, Event, Note
from strategies.call import Call
from strategies.engine import (
    Capabilities,
    Cost,
    Engine,
    Epoch,
    Example,
    Generation,
    Message,
    NotTrained,
    Prompt,
    PromptTooLong,
    Report,
    Sampling,
    Scored,
    Tool,
    Training,
)

T = TypeVar("T")
GRACE_SECONDS = 3.0
"""A step of the engine cannot be cut: what it still says comes within this."""
Limit = Literal["budget", "deadline", "context"]
"""budget: tokens; deadline: seconds; context: the model takes no longer prompt."""


class Exhausted(Exception):
    """A limit ends the run: no further call may start."""

    def __init__(self, limit: Limit) -> None:
        super().__init__(f"the {limit} is used up")
        self.limit: Limit = limit


@dataclass(slots=True)
class Usage:
    """What the engine processed for one request.

    `prompt_tokens` and `cached_tokens` count a prompt once per call, however many samples share it, as vLLM's own
    `usage` does; the `engine_*` twins count it once per branch, as vLLM's counters do.
    """

    calls: int = 0
    branches: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    engine_prompt_tokens: int = 0
    engine_cached_tokens: int = 0


class Session:
    """One request's engine. Use it as an async context manager: leaving it ends all engine work of the request.

    Args:
        engine: the engine, bound to this request.
        max_tokens: completion tokens over all calls; None for no bound.
        max_seconds: seconds from now; None for no bound.
        adapter: the engine's handle of the adapter that the client named, None for the served weights.
        decode: switches the request's decoders on in the sampling of a branch, which may continue another.
        on_call: told of each call once it is over, for metrics and traces.
        on_report: told at once what a decoder inside the engine did to a branch of a call.
        on_score: told of each score once it is over: when it began (time.monotonic), its requests, and the tokens that
            the engine generated for them.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_tokens: int | None = None,
        max_seconds: float | None = None,
        adapter: Any = None,
        decode: Callable[[Sampling, Generation | None], Sampling] = lambda sampling, continues: sampling,
        on_call: Callable[[Call], None] = lambda call: None,
        on_report: Callable[[Report, Call, int], None] = lambda report, call, branch: None,
        on_score: Callable[[float, int, int], None] = lambda began, requests, tokens: None,
    ) -> None:
        self.engine = engine
        self.usage = Usage()
        self.kept = Generation()
        self.rounds = 0
        self.side_by_side = 0
        """Branches that have not come to their end: what is left of the budget is for all of them alike."""
        self.limit: Limit | None = None
        self.failures: list[Exception] = []
        """Errors that the engine, not the strategy, raised."""
        self._adapter = adapter
        self._decode = decode
        self._on_call = on_call
        self._on_score = on_score
        self.on_report = on_report
        self._tokens_left = max_tokens
        self._deadline = None if max_seconds is None else asyncio.get_running_loop().time() + max_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.Task[None] | None = None
        self._open: set[Call] = set()
        self._left = False
        self._held: list[Any] = []
        """Adapters that this request has the use of."""
        self._closing: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self.engine.capabilities

    async def render(self, messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> Prompt:
        """Token ids of a conversation, ready to be answered. Raises Exhausted if the model takes none so long."""
        try:
            return await self.engine.render(messages, tools)
        except PromptTooLong:
            raise self._exhausted("context") from None
        except Exception as error:
            self.failures.append(error)
            raise

    @property
    def adapter(self) -> Any:
        """The handle of the adapter that calls are made with, None for the served weights."""
        return self._adapter

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that stands inside a prompt or an answer."""
        return self.engine.encode(text)

    def added_token(self, text: str) -> int | None:
        """The id of a token that was added to the vocabulary, None if there is none of this text."""
        return self.engine.added_token(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a part of an answer, without special tokens."""
        return self.engine.decode(token_ids)

    def call(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        role: str = "",
        branch: int = 0,
        continues: Generation | None = None,
    ) -> Call:
        """One call of one branch, which clients see under the number `branch`. Raises Exhausted, when iterated, if a
        limit forbids it.

        Args:
            prompt: what to answer.
            sampling: how.
            role: what the call is for.
            branch: its number among the thoughts.
            continues: the branch that this goes on with, whose tokens end the prompt: decoders keep their state.
        """
        return self.sample(prompt, [sampling], role=role, first_branch=branch, continues=[continues])

    def sample(
        self,
        prompt: Prompt,
        samplings: Sequence[Sampling],
        *,
        role: str = "",
        first_branch: int = 0,
        continues: Sequence[Generation | None] = (),
    ) -> Call:
        """One call with a branch for each sampling, side by side in one engine batch, over one shared prompt.

        What is left of the budget is shared evenly; where it is less than a token each, fewer branches start.
        """
        before = continues or [None] * len(samplings)
        decoded = [self.decoded(sampling, one) for sampling, one in zip(samplings, before, strict=True)]
        return Call(self, prompt, decoded, self._adapter, role=role, first_branch=first_branch, continues=before)

    def decoded(self, sampling: Sampling, continues: Generation | None = None) -> Sampling:
        """The sampling of a branch with the request's decoders switched on, as its calls have it."""
        return self._decode(sampling, continues)

    async def score(self, prompt: Prompt, continuations: Sequence[Sequence[int]]) -> list[Scored]:
        """Log-probabilities of continuations that the model did not write, side by side. Raises Exhausted.

        It takes completion tokens of the budget, as `Engine.score` says, and counts the prompt once.
        """
        self._require_time()
        if max(len(prompt) + len(tokens) for tokens in continuations) >= self.capabilities.max_model_len:
            raise self._exhausted("context")
        most = sum(len(tokens) + 1 for tokens in continuations)
        if self._tokens_left is not None:
            if self._tokens_left < most:
                raise self._exhausted("budget")
            self._tokens_left -= most
        usage, spent, requests, began = self.usage, 0, 0, time.monotonic()
        usage.calls += 1

        def count(cost: Cost) -> None:
            nonlocal spent, requests
            shared = len(prompt) if requests else 0
            usage.prompt_tokens += cost.prompt_tokens - shared
            usage.cached_tokens += max(cost.cached_tokens - shared, 0)
            requests += 1
            spent += cost.completion_tokens
            usage.branches += 1
            usage.completion_tokens += cost.completion_tokens
            usage.engine_prompt_tokens += cost.prompt_tokens
            usage.engine_cached_tokens += cost.cached_tokens

        try:
            return list(await self.bounded(self.engine.score(prompt, continuations, self._adapter, on_cost=count)))
        except Exhausted:
            raise
        except Exception as error:
            self.failures.append(error)
            raise
        finally:
            self.give_back(most - spent)
            self._on_score(began, requests, spent)

    async def beforehand(self, events: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """What is done before the answer, in half of the time and of the tokens that are left: the answer needs some.

        Raises NotTrained if that is not enough; none of its calls then goes on.
        """
        loop, limit = asyncio.get_running_loop(), self.limit
        deadline = None if self._deadline is None else (loop.time() + self._deadline) / 2
        held_back = (self._tokens_left or 0) // 2
        self.give_back(-held_back)
        try:
            async with aclosing(events):
                while True:
                    timeout = asyncio.timeout_at(deadline)
                    try:
                        async with timeout:
                            event = await anext(events)
                    except StopAsyncIteration:
                        return
                    yield event
        except TimeoutError:
            if not timeout.expired():
                raise
            raise NotTrained("it would leave too little time for the answer") from None
        except Exhausted as error:
            raise NotTrained(f"it would leave too little for the answer: {error}") from None
        finally:
            await asyncio.gather(*(call.close() for call in list(self._open)))
            self.give_back(held_back)
            self.limit = limit

    async def fit(
        self, examples: Sequence[Example], training: Training, *, keep: str | None = None
    ) -> AsyncGenerator[Epoch, None]:
        """Fits an adapter, with which all further calls are made; its epochs as they end. Raises NotTrained."""
        fitting = self.engine.fit(examples, training, keep=keep)
        async with aclosing(aiter(fitting)) as epochs:  # type: ignore[type-var]
            async for epoch in epochs:
                yield epoch
        self._use(fitting.adapter)

    def grammar(self, schema: Mapping[str, Any]) -> Any:
        """What constrains a call's output to JSON of a schema."""
        return self.engine.grammar(schema)

    async def teach(self, messages: Sequence[Message], schema: Mapping[str, Any], max_tokens: int) -> str:
        """What the operator's stronger model answers, as JSON of a schema. Raises NotTaught, or Exhausted."""
        return await self.bounded(self.engine.teach(messages, schema, max_tokens))

    async def recall(self, name: str) -> bool:
        """Makes all further calls with the adapter that was kept under a name; whether there is one."""
        adapter = await self.bounded(self.engine.recall(name))
        if adapter is not None:
            self._use(adapter)
        return adapter is not None

    def _use(self, adapter: Any) -> None:
        self._held.append(adapter)
        self._adapter = adapter

    async def bounded(self, work: Awaitable[T]) -> T:
        """The result of work that is no engine call, such as a vote. Raises Exhausted if the deadline comes first."""
        return await self._until(self._deadline, work)

    async def within_grace(self, work: Awaitable[T]) -> T:
        """The result of work that may go on for GRACE_SECONDS after the deadline. Raises Exhausted then."""
        return await self._until(None if self._deadline is None else self._deadline + GRACE_SECONDS, work)

    async def _until(self, deadline: float | None, work: Awaitable[T]) -> T:
        timeout = asyncio.timeout_at(deadline)
        try:
            async with timeout:
                return await work
        except TimeoutError:
            if not timeout.expired():
                raise  # The work's own.
            raise self._exhausted("deadline") from None

    def keep(self, generation: Generation) -> None:
        """Names the best answer so far: what the client gets if a limit ends the run."""
        self.kept = generation

    def reserve(self, call: Call, prompt: Prompt, samplings: Sequence[Sampling]) -> list[tuple[Sampling, bool]]:
        """Takes a call's tokens out of the budget before it starts; says of each branch whether it was cut."""
        if self._left:
            raise RuntimeError("the session is over: no further call may start")
        self._require_time()
        room = self.capabilities.max_model_len - len(prompt)
        if room < 1:
            raise self._exhausted("context")
        share = None
        if self._tokens_left is not None:
            if self._tokens_left < 1:
                raise self._exhausted("budget")
            samplings = samplings[: self._tokens_left]
            # What the others have reserved is for their next tokens only: they are owed as much as this one.
            unspent = self._tokens_left + sum(call.unspent for call in self._open)
            share = unspent // max(len(samplings), self.side_by_side)
            share = max(min(share, self._tokens_left // len(samplings)), 1)
        granted = []
        for sampling in samplings:
            tokens = min(sampling.max_tokens, room)
            cut = share is not None and share < tokens
            tokens = share if share is not None and cut else tokens
            granted.append((replace(sampling, max_tokens=tokens, min_tokens=min(sampling.min_tokens, tokens)), cut))
        if self._tokens_left is not None:
            self._tokens_left -= sum(sampling.max_tokens for sampling, _ in granted)
        self._open.add(call)
        self.usage.calls += 1
        self.usage.branches += len(granted)
        if self._deadline is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._deadline, self._expire)
        return granted

    def _require_time(self) -> None:
        if self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline:
            raise self._exhausted("deadline")

    def give_back(self, tokens: int) -> None:
        """Takes back what a branch reserved and did not use."""
        if self._tokens_left is not None:
            self._tokens_left += tokens

    def release(self, call: Call, *, cut: bool) -> None:
        """A call is over; `cut` says that the budget ended a branch of it."""
        self._open.discard(call)
        if cut and self.limit is None:
            self.limit = "budget"
        self._on_call(call)

    def is_open(self, call: Call) -> bool:
        """Whether the call has started and not been released."""
        return call in self._open

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        if self._timer is not None:
            self._timer.cancel()
        # In a task of its own: whoever is cancelled here, even again and again, ends all of it.
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await asyncio.gather(*(call.close() for call in list(self._open)))
        await asyncio.gather(*(self.engine.drop(adapter) for adapter in self._held))

    def _expire(self) -> None:
        if calls := [call for call in self._open if call.running]:
            self.limit = "deadline"
            self._expiry = asyncio.ensure_future(_stop_all(calls))

    def _exhausted(self, limit: Limit) -> Exhausted:
        self.limit = limit
        return Exhausted(limit)


async def run(events: AsyncIterator[Event], session: Session) -> AsyncIterator[Event]:
    """A strategy's events to its answer. A limit that ends it yields the answer kept last, cut if it was cut.

    Calls end with the deadline by themselves, and what a strategy makes of them is its answer; one that then still
    goes on, whatever it waits for, is ended after GRACE_SECONDS.

    Raises:
        RuntimeError: it ended without an answer, or went on after the answer's end.
    """
    answered = False
    try:
        async with aclosing(events):  # type: ignore[type-var]
            while True:
                event = await session.within_grace(anext(events))
                if isinstance(event, Answer):
                    if answered:
                        raise RuntimeError("it goes on with an answer that it has ended")
                    answered = event.piece.finish_reason is not None
                yield event
    except StopAsyncIteration:
        if not answered:
            raise RuntimeError("it ended without an answer") from None
    except Exhausted as stop:
        if answered:
            return
        yield Note("stopped", f"{stop}; this is the best answer so far", {"limit": stop.limit})
        yield Answer.of(_cut(session.kept))


def _cut(generation: Generation) -> Generation:
    return generation if generation.complete else replace(generation, finish_reason="length")


async def _stop_all(calls: Sequence[Call]) -> None:
    await asyncio.gather(*(call.stop() for call in calls))
