"""The Engine port: what a strategy may ask of an engine, in plain data. No vLLM here, and no HTTP."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self, TypeAlias

Message: TypeAlias = Mapping[str, Any]
"""One chat message as a client of the OpenAI API writes it."""

Tool: TypeAlias = Mapping[str, Any]
"""One tool as a client of the OpenAI API writes it."""

FinishReason = Literal["stop", "length", "abort"]
Capability = Literal["tokens", "logprobs", "grammar", "scores", "hidden_states", "training", "teacher"]
"""tokens: continues exact token ids; logprobs: of the sampled and the likeliest tokens; grammar: constrained output;
scores: log-probabilities of given tokens; hidden_states: runs decoders that see and change them; training: fits
adapters while a request waits; teacher: may ask another model.
"""

Report: TypeAlias = Mapping[str, Any]
"""What a decoder did to a branch, as plain data. `decoder` holds its name, `kind` says what it is about; beside each
token id under `token_...` the engine puts its text under `text_...`.
"""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, plus what rendering produced beside them (images, audio, a cache salt), opaque to strategies."""

    token_ids: tuple[int, ...]
    attachments: Mapping[str, Any] = field(default_factory=dict)

    def __add__(self, token_ids: Sequence[int]) -> Self:
        """The same prompt, continued by exact token ids: the prefix cache serves all that was there before."""
        return replace(self, token_ids=(*self.token_ids, *token_ids))

    def __len__(self) -> int:
        return len(self.token_ids)


class Logprob(Protocol):
    """One token at one position."""

    @property
    def logprob(self) -> float:
        """Log-probability in nats."""
        ...

    @property
    def rank(self) -> int | None:
        """1 for the likeliest."""
        ...

    @property
    def decoded_token(self) -> str | None:
        """Its text."""
        ...


TokenLogprobs: TypeAlias = Mapping[int, Logprob]
"""Log-probabilities at one position by token id: the sampled token and the likeliest others."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one call samples. `strategies.sampling` says what each role of call inherits from the client's request."""

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    bad_words: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    logprobs: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    thinking_token_budget: int | None = None
    grammar: Any = None
    """What constrains the output (JSON schema, tool call), opaque to strategies."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Settings that only this engine knows, opaque to strategies."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of logits processors inside the engine, by processor."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one engine step added to one branch. The last piece of a branch carries its finish reason."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    branch: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    cached_tokens: int = 0
    """Prompt tokens that the prefix cache served, known from the first piece on, from a remote engine with the last."""
    reports: tuple[Report, ...] = ()
    """What decoders inside the engine have done since the last piece."""
    given: int = 0
    """How many of its tokens the strategy wrote, and not the model."""


@dataclass(frozen=True, slots=True)
class Generation:
    """All that one branch of a call produced."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    branch: int = 0
    finish_reason: FinishReason = "length"
    stop_reason: int | str | None = None
    prompt_tokens: int = 0
    """Length of the prompt after which its first token was generated, in this call or in one that this continues."""
    reports: tuple[Report, ...] = ()
    """What decoders inside the engine did to it, in this call and in those that this continues."""
    given: int = 0
    """How many of its tokens the strategy wrote, and not the model."""

    def __add__(self, more: Self) -> Self:
        """This one and what continues it."""
        parts = (self.logprobs, more.logprobs)
        return replace(
            more,
            text=self.text + more.text,
            token_ids=self.token_ids + more.token_ids,
            logprobs=None if parts[0] is None or parts[1] is None else parts[0] + parts[1],
            branch=self.branch,
            prompt_tokens=self.prompt_tokens,
            given=self.given + more.given,
        )

    def with_given(self, text: str, token_ids: Sequence[int]) -> Self:
        """This one, gone on with by words that are not the model's. They have no log-probabilities."""
        return replace(
            self,
            text=self.text + text,
            token_ids=(*self.token_ids, *token_ids),
            logprobs=None if self.logprobs is None else self.logprobs + ({},) * len(token_ids),
            given=self.given + len(token_ids),
        )

    @property
    def complete(self) -> bool:
        """Whether the model ended by itself or at a stop string."""
        return self.finish_reason == "stop"

    def as_piece(self) -> Piece:
        """The whole branch as one piece, for an answer that is chosen after the fact."""
        return Piece(
            self.text,
            self.token_ids,
            self.logprobs,
            self.branch,
            self.finish_reason,
            self.stop_reason,
            given=self.given,
        )


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model makes of a continuation that it did not write."""

    logprobs: tuple[float, ...]
    """Of each of its tokens, in nats, at temperature 1."""

    @property
    def total(self) -> float:
        """Log-probability of the whole continuation in nats."""
        return sum(self.logprobs)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one request of the engine took."""

    prompt_tokens: int
    cached_tokens: int
    """Of those, what the prefix cache served."""
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this engine can do, in numbers and names."""

    names: frozenset[Capability]
    max_model_len: int
    """Longest prompt plus answer, in tokens."""
    max_logprobs: int
    """Likeliest tokens per position that a call may ask for."""
    vocab_size: int
    end_tokens: tuple[int, ...] = ()
    """Tokens with which the model ends an answer."""
    max_adapter_rank: int = 0
    """Of adapters that it takes."""
    refine_token: str | None = None
    """With which the checkpoint says that its attempt is wrong, if it was trained to, and says which token it is."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text of which the last tokens are to be learnt."""

    token_ids: tuple[int, ...]
    learnt: int
    """How many, from the end."""


@dataclass(frozen=True, slots=True)
class Training:
    """How an adapter is fitted to examples."""

    rank: int
    alpha: int
    epochs: int
    learning_rate: float
    schedule: str
    warmup: float
    """Share of the steps."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over all examples."""

    number: int
    """From 1."""
    loss: float
    """Nats per learnt token."""


class NotTrained(Exception):
    """There is no adapter, for a reason that is not the request's fault; the text says which."""


class NotTaught(Exception):
    """The teacher did not answer; the text says why."""


class PromptTooLong(ValueError):
    """A rendered conversation is longer than what the model takes."""


class Stream(Protocol):
    """One running branch. Iterate it to its end, also after `stop`: the last piece then says `abort`."""

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    async def stop(self) -> None:
        """Ends the engine's work on this branch. May be called at any time, and twice."""


class Fitting(Protocol):
    """An adapter in the making. Iterate it to its end; leaving it ends the training."""

    adapter: Any
    """Its handle, once the iteration is over."""

    def __aiter__(self) -> AsyncIterator[Epoch]:
        """The epochs as they end. Raises NotTrained."""
        ...


class Engine(Protocol):
    """An engine as one request may use it."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    async def render(self, messages: Sequence[Message], tools: Sequence[Tool] | None) -> Prompt:
        """Chat template and tokenizer. Raises PromptTooLong, or ValueError on messages that the template refuses."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that stands inside a prompt or an answer: nothing is added at its ends."""
        ...

    def added_token(self, text: str) -> int | None:
        """The id of a token that was added to the vocabulary, special ones too; None if there is none of this text."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a part of an answer, without special tokens."""
        ...

    def generate(self, prompt: Prompt, sampling: Sampling, adapter: Any = None) -> Stream:
        """Starts one branch. `adapter` is a handle from the engine, None for the served weights."""
        ...

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[Sequence[int]],
        adapter: Any = None,
        *,
        on_cost: Callable[[Cost], None] = lambda cost: None,
    ) -> Sequence[Scored]:
        """Log-probabilities of continuations of one token or more each, side by side over one shared prompt.

        The engine generates a token for each of theirs at most, and one more for each continuation. What its requests
        take is told as they end.
        """
        ...

    def grammar(self, schema: Mapping[str, Any]) -> Any:
        """What constrains a call's output to JSON of a schema, for `Sampling.grammar`."""
        ...

    def fit(self, examples: Sequence[Example], training: Training, *, keep: str | None = None) -> Fitting:
        """Fits an adapter to examples and makes it ready. Whoever gets it drops it.

        Args:
            examples: what to learn.
            training: how.
            keep: under which name `recall` finds it again; None to forget it once it is dropped.
        """
        ...

    async def recall(self, name: str) -> Any:
        """The adapter that was kept under a name, made ready; None if there is none."""
        ...

    async def drop(self, adapter: Any) -> None:
        """Ends the use of an adapter."""
        ...

    async def teach(self, messages: Sequence[Message], schema: Mapping[str, Any], max_tokens: int) -> str:
        """What the operator's stronger model answers, as JSON of a schema. Raises NotTaught."""
        ...
