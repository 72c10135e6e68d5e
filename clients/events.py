"""What a stream says, as small typed events, and how they are read from chat completion chunks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from pydantic import TypeAdapter


@dataclass(frozen=True)
class Strategy:
    """One entry of `/v1/strategies`."""

    name: str
    kind: str
    available: bool
    summary: str = ""
    paper: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class StrategyReport:
    """What the strategy did: the `strategy` object of a response."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)
    rounds: int = 0
    engine_calls: int = 0
    stop_reason: str | None = None
    seconds: float = 0.0
    notes: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Thought:
    """A piece of hidden work: a draft, a critique, a branch."""

    text: str
    branch: int = 0
    role: str = ""


@dataclass(frozen=True)
class AnswerDelta:
    """A piece of the final answer."""

    text: str


@dataclass(frozen=True)
class Note:
    """What the strategy decided and why."""

    data: dict[str, Any]
    branch: int = 0

    @property
    def text(self) -> str:
        """The decision in words."""
        return str(self.data.get("text", ""))


@dataclass(frozen=True)
class Done:
    """The end of a stream. `strategy` is None for a request without one."""

    finish_reason: str | None
    usage: CompletionUsage | None
    strategy: StrategyReport | None


Event = Thought | AnswerDelta | Note | Done


@dataclass(frozen=True)
class Answer:
    """A whole answer. `thoughts` are joined by branch and role, in the order in which they began."""

    text: str
    thoughts: tuple[Thought, ...]
    usage: CompletionUsage | None
    strategy: StrategyReport | None
    finish_reason: str | None


STRATEGIES = TypeAdapter(list[Strategy])
REPORT = TypeAdapter(StrategyReport)


class ChunkReader:
    """Turns the chunks of one stream into events; what belongs to `Done` waits for the end."""

    def __init__(self) -> None:
        self._finish_reason: str | None = None
        self._usage: CompletionUsage | None = None
        self._report: StrategyReport | None = None

    def read(self, chunk: ChatCompletionChunk) -> Iterator[Event]:
        """The events of one chunk."""
        about = (chunk.model_extra or {}).get("strategy") or {}
        self._usage = chunk.usage or self._usage
        if "name" in about:
            self._report = REPORT.validate_python(about)
        branch = about.get("branch") or 0
        if about.get("note"):
            yield Note(about["note"], branch)
        for choice in chunk.choices[:1]:
            self._finish_reason = choice.finish_reason or self._finish_reason
            if reasoning := (choice.delta.model_extra or {}).get("reasoning"):
                yield Thought(reasoning, branch, about.get("role") or "")
            if choice.delta.content:
                yield AnswerDelta(choice.delta.content)

    def done(self) -> Done:
        """What is known once the stream has ended."""
        return Done(self._finish_reason, self._usage, self._report)


def join_thoughts(thoughts: Iterable[Thought]) -> tuple[Thought, ...]:
    """Join the pieces of each branch until its role changes, however branches interleave."""
    joined: list[Thought] = []
    latest: dict[int, int] = {}
    for thought in thoughts:
        at = latest.get(thought.branch)
        if at is not None and joined[at].role == thought.role:
            joined[at] = Thought(joined[at].text + thought.text, thought.branch, thought.role)
        else:
            latest[thought.branch] = len(joined)
            joined.append(thought)
    return tuple(joined)


def fold(events: Iterable[Event]) -> Answer:
    """The whole answer of a finished stream."""
    events = list(events)
    (done,) = (event for event in events if isinstance(event, Done))
    return Answer(
        text="".join(event.text for event in events if isinstance(event, AnswerDelta)),
        thoughts=join_thoughts(event for event in events if isinstance(event, Thought)),
        usage=done.usage,
        strategy=done.strategy,
        finish_reason=done.finish_reason,
    )
