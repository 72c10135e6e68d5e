"""What a strategy is: a name, strict parameters, the capabilities it needs, and one async generator of events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from strategies.engine import Capability, Engine, Generation, Message, Piece, Prompt, Report, Sampling, Tool
from strategies.sampling import Role, sampling_for

if TYPE_CHECKING:
    from strategies.session import Session


class Params(BaseModel):
    """Base of every strategy's parameters: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Budget(Params):
    """What one request may spend."""

    max_tokens: int | None = Field(None, ge=1, description="Completion tokens over all engine calls of the request.")
    max_seconds: float | None = Field(
        None, gt=0, description="Seconds from the start of the run, waiting for its turn included."
    )


class InvalidTask(ValueError):
    """The request cannot be run by this strategy; becomes a 400 that names `param`."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Task:
    """One request: its conversation, already rendered, and how its client wants it sampled."""

    messages: Sequence[Message]
    prompt: Prompt
    sampling: Sampling
    tools: Sequence[Tool] | None = None
    continues: bool = False
    """The prompt ends inside an assistant message that the answer continues."""
    tool: str | None = None
    """The only one that the answer may call, where the client names it."""

    @property
    def callable_tools(self) -> Sequence[Tool]:
        """Those that the answer may call."""
        return [tool for tool in self.tools or () if self.tool in (None, tool["function"]["name"])]

    def sampling_for(self, role: Role, *, round: int = 0, branch: int = 0, **derived: Any) -> Sampling:
        """The sampling of one call of this task; `derived` sets what the table calls derived."""
        return sampling_for(self.sampling, role, round=round, branch=branch, **derived)


@dataclass(frozen=True, slots=True)
class Thought:
    """Text that the client may watch but that is no part of the answer: a draft, a critique, a branch."""

    text: str
    role: Role
    branch: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A delta of the final answer. The last one carries the finish reason."""

    piece: Piece

    @classmethod
    def of(cls, generation: Generation) -> Answer:
        """A whole answer at once."""
        return cls(generation.as_piece())


@dataclass(frozen=True, slots=True)
class Note:
    """What was decided, and why: a score, a vote, a stop."""

    kind: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    branch: int = 0
    role: Role | None = None


Event: TypeAlias = Thought | Answer | Note


class Plugin(ABC):
    """What orchestrators and decoders share."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for /v1/strategies and the README."""
    paper: ClassVar[str | None] = None
    needs: ClassVar[frozenset[Capability]] = frozenset({"tokens"})
    Parameters: ClassVar[type[Params]] = Params

    def __init__(self, params: Params | None = None) -> None:
        self.params = self.Parameters() if params is None else params


class Strategy(Plugin):
    """An orchestrator: it makes engine calls and says what happens as events."""

    def check(self, task: Task, engine: Engine) -> None:
        """Raises InvalidTask for a request that this strategy, so set, cannot serve with this engine. Runs before any
        engine call, and makes none.
        """

    @abstractmethod
    def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        """The method itself. Ends after the Answer that carries a finish reason.

        It neither counts tokens nor cancels: `engine` does, and raises Exhausted out of the next call when a budget
        or the deadline ends the run; the client then gets the generation last given to `engine.keep`.
        """
        ...


class Decoder(Plugin):
    """Acts inside the engine through a logits processor: it only adds sampling arguments to every call."""

    @abstractmethod
    def apply(self, sampling: Sampling, continues: Generation | None = None) -> Sampling:
        """The sampling with this decoder switched on, for a new branch or for one that continues another."""

    def note(self, report: Report) -> Note:
        """What clients are told of one of this decoder's reports."""
        data = {key: value for key, value in report.items() if key not in ("decoder", "kind")}
        return Note(report["kind"], "", data)


def require_samples_differ(task: Task, samples: int) -> None:
    """Raises InvalidTask if several samples would all be the same greedy answer."""
    if samples > 1 and task.sampling.temperature == 0:
        raise InvalidTask(
            f"temperature 0 makes all {samples} samples the same; raise temperature or ask for one sample",
            "temperature",
        )
