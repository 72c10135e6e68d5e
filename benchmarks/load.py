"""A load of chat completions over HTTP, and what each of them took."""

import asyncio
import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx

from benchmarks.attempts import FirstAttempt

CHAT = "/v1/chat/completions"
MALFORMED = (ValueError, LookupError, TypeError, AttributeError)
"""What reading an answer of another shape than OpenAI's ends with."""
# Each is one token of most vocabularies, so that as many words make about as many tokens.
VOCABULARY = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house
"""
WORDS = VOCABULARY.split()


class LoadError(RuntimeError):
    """A server did not answer as a measurement needs it to."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, or failure.

    Attributes:
        status: HTTP status; 0 if the connection broke.
        seconds: from sending to the last byte.
        first_token: seconds to the first visible text or call of a stream, None if there was none.
        text: the answer's text, or the error's.
        usage: the response's `usage`.
        strategy: the response's `strategy`.
        finish_reason: of the answer.
        calls: the tools that the answer calls, each with its arguments as JSON.
        notes: a strategy's, in a stream, each with the seconds until it came.
        first_thought: seconds to the first text of a stream that is no part of the answer, None if there was none.
        first_answer: seconds to the first text or call of the answer in a stream, None if there was none.
        first_attempt: the answer before it was refined, where a strategy streamed one.
        retry_after: seconds after which a server that refuses wants to be asked again, where it says so.
    """

    status: int
    seconds: float
    first_token: float | None
    text: str
    usage: Mapping[str, Any]
    strategy: Mapping[str, Any]
    finish_reason: str | None = None
    calls: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[float, Mapping[str, Any]], ...] = ()
    first_thought: float | None = None
    first_answer: float | None = None
    first_attempt: str | None = None
    retry_after: float | None = None

    def checked(self) -> Self:
        """Itself. Raises LoadError unless it is an answer with its tokens counted."""
        if self.status != httpx.codes.OK or not self.usage:
            raise LoadError(f"status {self.status}: {self.text[:500]}")
        return self

    @property
    def tokens(self) -> int:
        """Completion tokens."""
        return int(self.usage["completion_tokens"])

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the prefix cache served."""
        details: Mapping[str, int] = self.usage.get("prompt_tokens_details") or {}
        return details.get("cached_tokens") or 0


@dataclass(frozen=True, slots=True)
class Load:
    """Replies to requests that ran side by side."""

    replies: tuple[Reply, ...]
    seconds: float

    @property
    def tokens(self) -> int:
        """Completion tokens of all replies."""
        return sum(reply.tokens for reply in self.replies)

    @property
    def first_tokens(self) -> list[float]:
        """Seconds to the first token, of the replies that have one."""
        return [reply.first_token for reply in self.replies if reply.first_token is not None]


def client(url: str, key: str | None = None) -> httpx.AsyncClient:
    """A client without limits of its own: what takes long is what is measured."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=None, limits=limits, trust_env=False)


def prompt(generator: random.Random, words: int) -> str:
    """A text that shares no beginning with another, so that no prefix cache knows it."""
    return " ".join(generator.choices(WORDS, k=words))


def chat(model: str, text: str, tokens: int, **more: Any) -> dict[str, Any]:
    """A streamed request for an answer of exactly so many tokens."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    } | more
    return body | ({"stream_options": {"include_usage": True}} if body["stream"] else {})


async def ask(http: httpx.AsyncClient, body: Mapping[str, Any], path: str = CHAT) -> Reply:
    """Sends one request and reads its answer to the end. Failures are replies too."""
    began = time.perf_counter()
    try:
        return await (_streamed if body.get("stream") else _whole)(http, body, path, began)
    except httpx.HTTPError as error:
        return Reply(0, time.perf_counter() - began, None, repr(error), {}, {})
    except MALFORMED as error:
        # Another server's idea of an answer is no reason to end a run.
        return Reply(httpx.codes.BAD_GATEWAY, time.perf_counter() - began, None, f"no answer: {error!r}", {}, {})


async def _whole(http: httpx.AsyncClient, body: Mapping[str, Any], path: str, began: float) -> Reply:
    response = await http.post(path, json=body)
    seconds = time.perf_counter() - began
    if response.status_code != httpx.codes.OK:
        return _refusal(response, response.text, seconds)
    answer = response.json()
    choice, strategy = answer["choices"][0], answer.get("strategy") or {}
    message, reason = choice["message"], choice.get("finish_reason")
    called = [call["function"] for call in message.get("tool_calls") or ()]
    calls = tuple((function["name"], function["arguments"]) for function in called)
    text = message["content"] or ""
    return Reply(response.status_code, seconds, None, text, answer["usage"], strategy, reason, calls)


async def all_of(http: httpx.AsyncClient, bodies: Iterable[Mapping[str, Any]], concurrency: int) -> Load:
    """Sends requests, at most so many at the same time. Raises LoadError if one fails."""
    waiting = iter(bodies)
    replies: list[Reply] = []

    async def work() -> None:
        for body in waiting:
            replies.append((await ask(http, body)).checked())

    began = time.perf_counter()
    async with asyncio.TaskGroup() as workers:
        for _ in range(concurrency):
            workers.create_task(work())
    return Load(tuple(replies), time.perf_counter() - began)


def until(deadline: float, bodies: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The requests that can still be sent before `deadline` on the clock of `time.perf_counter`."""
    while time.perf_counter() < deadline:
        yield next(bodies)


async def _streamed(http: httpx.AsyncClient, body: Mapping[str, Any], path: str, began: float) -> Reply:
    read = _Stream()
    async with http.stream("POST", path, json=body) as response:
        if response.status_code != httpx.codes.OK:
            text = (await response.aread()).decode(errors="replace")
            return _refusal(response, text, time.perf_counter() - began)
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            seconds = time.perf_counter() - began
            if chunk.get("error"):
                return Reply(500, seconds, read.first_token, json.dumps(chunk["error"]), {}, {})
            read.add(chunk, seconds)
    return read.reply(time.perf_counter() - began)


def _refusal(response: httpx.Response, text: str, seconds: float) -> Reply:
    wait = response.headers.get("retry-after", "")
    retry_after = float(wait) if wait.isdecimal() else None
    return Reply(response.status_code, seconds, None, text, {}, {}, retry_after=retry_after)


class _Stream:
    """What the chunks of a stream say, put together."""

    def __init__(self) -> None:
        self._first_thought: float | None = None
        self._first_answer: float | None = None
        self._attempt = FirstAttempt()
        self._texts: list[str] = []
        self._calls: dict[int, tuple[str, str]] = {}
        self._notes: list[tuple[float, Mapping[str, Any]]] = []
        self._finish_reason: str | None = None
        self._usage: Mapping[str, Any] = {}
        self._strategy: Mapping[str, Any] = {}

    def add(self, chunk: Mapping[str, Any], seconds: float) -> None:
        """Takes a chunk, and when it came."""
        said = chunk.get("strategy") or {}
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            thought = delta.get("reasoning") or delta.get("reasoning_content") or ""
            if thought and self._first_thought is None:
                self._first_thought = seconds
            if (delta.get("content") or delta.get("tool_calls")) and self._first_answer is None:
                self._first_answer = seconds
            self._attempt.add(said, thought)
            self._texts.append(delta.get("content") or "")
            self._add_calls(delta.get("tool_calls") or ())
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        self._usage = chunk.get("usage") or self._usage
        self._strategy = said or self._strategy
        if note := said.get("note"):
            self._notes.append((seconds, note))

    @property
    def first_token(self) -> float | None:
        """Seconds to the first that came of either."""
        return min((one for one in (self._first_thought, self._first_answer) if one is not None), default=None)

    def _add_calls(self, pieces: Iterable[Mapping[str, Any]]) -> None:
        """A call comes in pieces: its name once, its arguments bit by bit."""
        for piece in pieces:
            place = piece.get("index", len(self._calls))
            name, arguments = self._calls.get(place, ("", ""))
            function = piece.get("function") or {}
            said = (name + (function.get("name") or ""), arguments + (function.get("arguments") or ""))
            self._calls[place] = said

    def reply(self, seconds: float) -> Reply:
        """The answer that ended after so many seconds."""
        return Reply(
            httpx.codes.OK,
            seconds,
            self.first_token,
            "".join(self._texts),
            self._usage,
            self._strategy,
            self._finish_reason,
            tuple(call for _, call in sorted(self._calls.items())),
            tuple(self._notes),
            self._first_thought,
            self._first_answer,
            self._attempt.text,
        )
