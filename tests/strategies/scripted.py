"""An engine that says what a test wrote, token by token, and remembers what it was asked."""

import asyncio
import json
import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from strategies.base import Answer, Event, Note, Strategy, Task, Thought
from strategies.engine import (
    Capabilities,
    Cost,
    Epoch,
    Example,
    FinishReason,
    Generation,
    Message,
    Piece,
    Prompt,
    Sampling,
    Scored,
    TokenLogprobs,
    Tool,
    Training,
)
from strategies.session import Session, run

EOS = 0
"""The token with which this model ends."""

PATIENCE = 10.0
"""Seconds after which a test that waits for something has failed."""


@dataclass(slots=True)
class Entry:
    """A log-probability as the port has it."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What one branch says. A word with the space before it is a token."""

    text: str = ""
    finish_reason: FinishReason = "stop"
    stop_reason: int | str | None = None
    logprobs: Sequence[Sequence[float]] | None = None
    """By token: first the sampled token's, then others'. None: the sampled token's is -1, and there are no others."""
    cached_tokens: int = 0
    tells_late: bool = False
    """What the cache served is told with the last piece only, as by an engine elsewhere."""
    hold_at: int | None = None
    """Says so many tokens, then nothing until `ScriptedEngine.release` or a stop."""
    fail_at: int | None = None
    """Breaks with EngineBroke after so many tokens."""
    late: str = ""
    """What the engine still says when it has been told to stop."""
    hasty: bool = False
    """`stop` returns at once, and the branch takes its time to end."""
    end: int | None = None
    """Ends with this token, which has no text, as models do."""
    silent: bool = False
    """Ends without a single piece, as a branch that is stopped before it starts."""


class EngineBroke(Exception):
    """The engine failed on a branch."""


@dataclass(frozen=True, slots=True)
class Request:
    """One branch that the engine was asked for."""

    number: int
    prompt: Prompt
    sampling: Sampling
    adapter: Any

    @property
    def text(self) -> str:
        """The prompt as text."""
        return "".join(map(chr, self.prompt.token_ids))

    @property
    def asked(self) -> str:
        """The prompt's last user message."""
        return self.text.rsplit("<user>", 1)[-1].removesuffix("<end><assistant>")


Script = Callable[[Request], Reply | str]


class ScriptedEngine:
    """An Engine whose branches say what `script` returns for them; a sequence of replies is taken in order of start.

    A prompt has a token for each character, `render` writes `<role>content<end>` for each message, so a conversation's
    prompt begins with that of each of its beginnings. Every branch of the engine says one token a turn of the event
    loop, so the order of all pieces is the same in every run.
    """

    def __init__(
        self,
        script: Script | Sequence[Reply | str],
        *,
        max_model_len: int = 100_000,
        max_logprobs: int = 20,
        vocab_size: int = 2**33,
        scores: Callable[[Prompt, int], float] = lambda prompt, token: -1.0,
    ) -> None:
        self.capabilities = Capabilities(
            frozenset({"tokens", "logprobs", "grammar", "scores"}), max_model_len, max_logprobs, vocab_size, (EOS,)
        )
        self.scored: list[Prompt] = []
        """Prompts whose continuations were scored."""
        self._scores = scores
        self.requests: list[Request] = []
        self.rendered: list[tuple[Sequence[Message], Sequence[Tool] | None]] = []
        self.running: set[int] = set()
        """Numbers of the branches that say something now."""
        self.held: set[int] = set()
        """Numbers of the branches that wait at their `hold_at`."""
        self.stopped: list[int] = []
        """Numbers of the branches that were told to stop, in order."""
        self.losses: list[float | Exception] = []
        """Of the epochs of a training, or how it fails."""
        self.lessons: list[str | Exception] = []
        """What a teacher says, in order."""
        self.fitted: list[tuple[Sequence[Example], Training, str | None]] = []
        self.kept: dict[str, Any] = {}
        self.dropped: list[Any] = []
        self.taught: list[Sequence[Message]] = []
        self._words: dict[int, str] = {EOS: ""}
        self._script = script
        self._changed = asyncio.Event()
        self._released = asyncio.Event()

    async def render(self, messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> Prompt:
        """The prompt of a conversation."""
        self.rendered.append((list(messages), tools))
        return prompt_of(messages, tools)

    def generate(self, prompt: Prompt, sampling: Sampling, adapter: Any = None) -> "ScriptedStream":
        """A branch; it starts when it is iterated."""
        request = Request(len(self.requests), prompt, sampling, adapter)
        self.requests.append(request)
        reply = self._script(request) if callable(self._script) else self._script[request.number]
        return ScriptedStream(self, request, Reply(reply) if isinstance(reply, str) else reply)

    def release(self) -> None:
        """Lets every branch go on that waits at its `hold_at`."""
        self._released.set()

    async def until_held(self, branches: int = 1) -> None:
        """Returns once so many branches wait at their `hold_at`."""
        async with asyncio.timeout(PATIENCE):
            while len(self.held) < branches:
                self._changed.clear()
                await self._changed.wait()

    def encode(self, text: str) -> tuple[int, ...]:
        """A token for each word, as in answers."""
        words = re.findall(r"\s*\S+\s*$|\s*\S+", text)
        return tuple(self._known(word) for word in words)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The words of tokens that it has said or encoded."""
        return "".join(self._words.get(token, "") for token in token_ids)

    def added_token(self, text: str) -> int | None:
        """Those between bars."""
        return self._known(text) if re.fullmatch(r"<\|\S+\|>", text) else None

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[Sequence[int]],
        adapter: Any = None,
        *,
        on_cost: Callable[[Cost], None] = lambda cost: None,
    ) -> Sequence[Scored]:
        """Each token has the log-probability that the test gives it after this prompt."""
        await asyncio.sleep(0)
        self.scored.append(prompt)
        for tokens in continuations:
            on_cost(Cost(len(prompt), 0, 1))
            if len(tokens) > 1:
                on_cost(Cost(len(prompt) + len(tokens), 0, 1))
        return [Scored(tuple(self._scores(prompt, token) for token in tokens)) for tokens in continuations]

    def grammar(self, schema: Mapping[str, Any]) -> Any:
        """The schema itself."""
        return schema

    def fit(self, examples: Sequence[Example], training: Training, *, keep: str | None = None) -> "ScriptedFitting":
        """Epochs with the losses that the test set."""
        self.fitted.append((examples, training, keep))
        return ScriptedFitting(self, keep)

    async def recall(self, name: str) -> Any:
        """What was kept."""
        return self.kept.get(name)

    async def drop(self, adapter: Any) -> None:
        """Remembers it."""
        self.dropped.append(adapter)

    async def teach(self, messages: Sequence[Message], schema: Mapping[str, Any], max_tokens: int) -> str:
        """What the test has the teacher say."""
        self.taught.append(messages)
        lesson = self.lessons.pop(0)
        if isinstance(lesson, Exception):
            raise lesson
        return lesson

    def _known(self, word: str) -> int:
        self._words[token_id(word)] = word
        return token_id(word)

    async def hold(self, number: int, stopping: asyncio.Event) -> None:
        """Waits for a release or the branch's stop."""
        self.held.add(number)
        self._changed.set()
        waits = [asyncio.ensure_future(event.wait()) for event in (self._released, stopping)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            self.held.discard(number)


class ScriptedFitting:
    """One training."""

    def __init__(self, engine: ScriptedEngine, keep: str | None) -> None:
        self.adapter: Any = None
        self._engine = engine
        self._keep = keep

    async def __aiter__(self) -> AsyncIterator[Epoch]:
        for number, loss in enumerate(self._engine.losses, 1):
            await asyncio.sleep(0)
            if isinstance(loss, Exception):
                raise loss
            yield Epoch(number, loss)
        self.adapter = f"adapter {len(self._engine.fitted)}"
        if self._keep is not None:
            self._engine.kept[self._keep] = self.adapter


class ScriptedStream:
    """One branch."""

    def __init__(self, engine: ScriptedEngine, request: Request, reply: Reply) -> None:
        self._engine = engine
        self._request = request
        self._reply = reply
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._iterated = False

    async def stop(self) -> None:
        """Ends the branch; returns when it has ended."""
        self._engine.stopped.append(self._request.number)
        self._stopping.set()
        if self._iterated and not self._reply.hasty:
            await self._ended.wait()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        if self._stopping.is_set() or self._reply.silent:
            return
        self._iterated = True
        self._engine.running.add(self._request.number)
        try:
            async for piece in self._pieces():
                yield piece
        finally:
            self._engine.running.discard(self._request.number)
            self._ended.set()

    async def _pieces(self) -> AsyncIterator[Piece]:
        reply, sampling = self._reply, self._request.sampling
        words = tokens_of(reply.text)
        for position in range(len(words) + 1):
            await asyncio.sleep(0)
            if reply.fail_at == position:
                raise EngineBroke(f"branch {self._request.number}")
            if reply.hold_at == position and not self._stopping.is_set():
                await self._engine.hold(self._request.number, self._stopping)
            if self._stopping.is_set():
                for _ in range(20 * reply.hasty):
                    await asyncio.sleep(0)
                for word in tokens_of(reply.late):
                    yield self._piece(word, None)
                yield Piece("", finish_reason="abort", cached_tokens=reply.cached_tokens)
                return
            if position == len(words):
                break
            last = position == len(words) - 1
            full = position == sampling.max_tokens - 1
            # A branch that holds, or breaks, after its last token does not end with it.
            if last and (reply.hold_at == len(words) or reply.fail_at == len(words)):
                last = False
            last = last and (reply.end is None or full)
            reason: FinishReason | None = reply.finish_reason if last else "length" if full else None
            yield self._piece(words[position], position, reason)
            if reason is not None:
                return
        if reply.end is not None:
            yield replace(self._piece("", None, "stop"), token_ids=(reply.end,))
            return
        yield Piece("", finish_reason=reply.finish_reason, cached_tokens=reply.cached_tokens)

    def _piece(self, word: str, position: int | None, reason: FinishReason | None = None) -> Piece:
        reply, token = self._reply, self._engine._known(word)
        logprobs: tuple[TokenLogprobs, ...] | None = None
        if self._request.sampling.logprobs is not None:
            values = (-1.0,) if reply.logprobs is None or position is None else reply.logprobs[position]
            logprobs = ({(token if rank == 0 else rank): Entry(value) for rank, value in enumerate(values)},)
        return Piece(
            word,
            (token,),
            logprobs,
            finish_reason=reason,
            stop_reason=reply.stop_reason if reason == "stop" else None,
            cached_tokens=0 if reply.tells_late and reason is None else reply.cached_tokens,
        )


def tokens_of(text: str) -> list[str]:
    """The tokens of an answer: its words, each with the space before it."""
    return [word if index == 0 else f" {word}" for index, word in enumerate(text.split(" "))] if text else []


def token_id(word: str) -> int:
    """The same id for the same word in every run; the small ids are left to unsampled tokens."""
    return 1_000 + zlib.crc32(word.encode())


def prompt_of(messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> Prompt:
    """What ScriptedEngine makes of a conversation."""
    text = f"<tools>{json.dumps(list(tools))}<end>" if tools else ""
    text += "".join(f"<{message['role']}>{message['content']}<end>" for message in messages)
    return Prompt(tuple(map(ord, f"{text}<assistant>")))


def task_of(question: str = "six times seven?", *, tools: Sequence[Tool] | None = None, **sampling: Any) -> Task:
    """A task of one question. Further arguments set its sampling, which allows 100 tokens if they do not say."""
    messages: list[Message] = [{"role": "user", "content": question}]
    return Task(messages, prompt_of(messages, tools), Sampling(**{"max_tokens": 100, **sampling}), tools)


def generation_of(text: str, finish_reason: FinishReason = "stop", branch: int = 0) -> Generation:
    """A generation of so many tokens as the text has words."""
    return Generation(text, tuple(map(token_id, tokens_of(text))), None, branch, finish_reason)


def events_of(strategy: Strategy, task: Task, session: Session) -> AsyncGenerator[Event, None]:
    """A run as the server starts it, with its `aclose`."""
    return cast(AsyncGenerator[Event, None], run(strategy.run(task, session), session))


@dataclass(slots=True)
class Outcome:
    """What a run said."""

    events: list[Event] = field(default_factory=list)

    @property
    def pieces(self) -> list[Piece]:
        """The answer, piece by piece."""
        return [event.piece for event in self.events if isinstance(event, Answer)]

    @property
    def answer(self) -> str:
        """The answer's text."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Of the answer, whose last piece alone carries one."""
        assert all(piece.finish_reason is None for piece in self.pieces[:-1])
        return self.pieces[-1].finish_reason

    @property
    def notes(self) -> list[Note]:
        """All notes."""
        return [event for event in self.events if isinstance(event, Note)]

    def data(self, kind: str) -> list[Mapping[str, Any]]:
        """The data of the notes of a kind."""
        return [note.data for note in self.notes if note.kind == kind]

    def thoughts(self) -> list[tuple[str, int, str]]:
        """Role, branch and text of every thought, the pieces of each joined, in order of their first pieces."""
        texts: dict[tuple[str, int], str] = {}
        for event in self.events:
            if isinstance(event, Thought):
                texts[event.role, event.branch] = texts.get((event.role, event.branch), "") + event.text
        return [(role, branch, text) for (role, branch), text in texts.items()]


async def play(strategy: Strategy, task: Task, session: Session) -> Outcome:
    """Runs a strategy to its end as the server does, and leaves nothing running."""
    outcome = Outcome()
    strategy.check(task, session.engine)
    async with asyncio.timeout(PATIENCE), session:
        async for event in events_of(strategy, task, session):
            outcome.events.append(event)
    assert isinstance(session.engine, ScriptedEngine)
    assert not session.engine.running
    return outcome


class Clock:
    """The event loop's clock, which a test can put forward: timers that are due then go off."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._real = loop.time
        self._ahead = 0.0

    def time(self) -> float:
        """In place of `loop.time`."""
        return self._real() + self._ahead

    async def advance(self, seconds: float) -> None:
        """Lets so many seconds pass, and their timers go off."""
        self._ahead += seconds
        for _ in range(3):
            await asyncio.sleep(0)
