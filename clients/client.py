"""A thin typed client over the OpenAI SDK, which stays within reach as `.openai` for all else: tools, n, logprobs."""

import os
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from typing import Any, TypedDict

from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from clients.events import STRATEGIES, Answer, ChunkReader, Event, Strategy, fold

Messages = str | Iterable[ChatCompletionMessageParam]


class Budget(TypedDict, total=False):
    """Bounds of one request over all its engine calls."""

    max_tokens: int
    max_seconds: float


class Redraft:
    """Asks a redraft server, for instance `Redraft("http://127.0.0.1:8000/v1")`.

    Without `api_key` the variable OPENAI_API_KEY counts; without `model`, the first model that the server lists.
    """

    def __init__(self, base_url: str, api_key: str | None = None, model: str | None = None) -> None:
        self.openai = OpenAI(base_url=base_url, api_key=_key(api_key))
        self._model = model

    def answer(
        self,
        messages: Messages,
        strategy: str | None = None,
        params: Mapping[str, object] | None = None,
        budget: Budget | None = None,
        **sampling: Any,
    ) -> Answer:
        """Ask and wait. `sampling` takes whatever `chat.completions.create` takes, `extra_body` too."""
        # Streamed all the same: heartbeats keep a long silent run alive, and thoughts keep their branch and role.
        return fold(self.stream(messages, strategy, params, budget, **sampling))

    def stream(
        self,
        messages: Messages,
        strategy: str | None = None,
        params: Mapping[str, object] | None = None,
        budget: Budget | None = None,
        **sampling: Any,
    ) -> Generator[Event, None, None]:
        """Ask and yield events as they come, `Done` last. Closing the generator makes the server stop the work."""
        request = _request(messages, strategy, params, budget, sampling)
        if "model" not in request:
            self._model = self._model or _first_plain(self.models())
            request["model"] = self._model
        chunks: Stream[ChatCompletionChunk] = self.openai.chat.completions.create(**request)
        reader = ChunkReader()
        with chunks:
            for chunk in chunks:
                yield from reader.read(chunk)
        yield reader.done()

    def strategies(self) -> list[Strategy]:
        """All strategies of the server, those that its engine cannot run too."""
        listing: Any = self.openai.get("/strategies", cast_to=object)
        return STRATEGIES.validate_python(listing["data"])

    def models(self) -> list[str]:
        """All model names, each `model@strategy` alias too."""
        return [model.id for model in self.openai.models.list()]


class AsyncRedraft:
    """`Redraft` for asyncio."""

    def __init__(self, base_url: str, api_key: str | None = None, model: str | None = None) -> None:
        self.openai = AsyncOpenAI(base_url=base_url, api_key=_key(api_key))
        self._model = model

    async def answer(
        self,
        messages: Messages,
        strategy: str | None = None,
        params: Mapping[str, object] | None = None,
        budget: Budget | None = None,
        **sampling: Any,
    ) -> Answer:
        """See `Redraft.answer`."""
        return fold([event async for event in self.stream(messages, strategy, params, budget, **sampling)])

    async def stream(
        self,
        messages: Messages,
        strategy: str | None = None,
        params: Mapping[str, object] | None = None,
        budget: Budget | None = None,
        **sampling: Any,
    ) -> AsyncGenerator[Event, None]:
        """See `Redraft.stream`."""
        request = _request(messages, strategy, params, budget, sampling)
        if "model" not in request:
            self._model = self._model or _first_plain(await self.models())
            request["model"] = self._model
        chunks: AsyncStream[ChatCompletionChunk] = await self.openai.chat.completions.create(**request)
        reader = ChunkReader()
        async with chunks:
            async for chunk in chunks:
                for event in reader.read(chunk):
                    yield event
        yield reader.done()

    async def strategies(self) -> list[Strategy]:
        """See `Redraft.strategies`."""
        listing: Any = await self.openai.get("/strategies", cast_to=object)
        return STRATEGIES.validate_python(listing["data"])

    async def models(self) -> list[str]:
        """See `Redraft.models`."""
        return [model.id async for model in self.openai.models.list()]


def _key(api_key: str | None) -> str:
    # The SDK insists on a key, also for a server that asks for none.
    return api_key or os.environ.get("OPENAI_API_KEY") or "none"


def _first_plain(models: list[str]) -> str:
    plain = [model for model in models if "@" not in model]
    if not plain:
        raise LookupError("the server lists no model")
    return plain[0]


def _request(
    messages: Messages,
    strategy: str | None,
    params: Mapping[str, object] | None,
    budget: Budget | None,
    sampling: Mapping[str, Any],
) -> dict[str, Any]:
    if strategy is None and (params or budget):
        raise ValueError("params and budget belong to a strategy, and none is named")
    chosen = {"name": strategy, "params": params, "budget": budget}
    extra: dict[str, Any] = {**(sampling.get("extra_body") or {})}
    if strategy is not None:
        extra["strategy"] = {key: value for key, value in chosen.items() if value is not None}
    return {
        **sampling,
        "messages": [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        "extra_body": extra,
    }
