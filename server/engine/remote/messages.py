"""Servers without token routes, which speak OpenAI's chat completions alone: messages in, text out.

Token ids are then those of texts: numbers that tell tokens apart, and mean nothing to a model.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import SamplingParams

from server.engine.remote.faults import garbage, message_of, status_of, told
from server.engine.remote.sse import DONE

_STANDARD = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias")
_STOPS = {"length": "length"}
"""Finish reasons that are no `stop`."""


class _Entry(BaseModel):
    token: str
    logprob: float


class _Position(_Entry):
    top_logprobs: list[_Entry] = []


class _Logprobs(BaseModel):
    content: list[_Position] | None = None


class _Delta(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    delta: _Delta
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    completion_tokens: int = 0
    prompt_tokens_details: Mapping[str, Any] | None = None


class _Chunk(BaseModel):
    """As much of a chunk of a chat completion as is read."""

    model_config = ConfigDict(extra="ignore")

    choices: list[_Choice]
    usage: _Usage | None = None


@dataclass(frozen=True, slots=True)
class MessagesCall:
    """One engine call as a chat completion."""

    request_id: str
    model: str
    prompt: Mapping[str, Any]
    params: SamplingParams
    path: str = "/v1/chat/completions"

    def body(self) -> bytes:
        """The request as JSON: what OpenAI's API knows of the sampling, where it is not the default."""
        params, usual = self.params, SamplingParams()
        body: dict[str, Any] = {
            "model": self.model,
            "messages": self.prompt["messages"],
            "max_tokens": params.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        names = [name for name in _STANDARD if getattr(params, name) != getattr(usual, name)]
        body |= {name: getattr(params, name) for name in names}
        if params.stop:
            body["stop"] = params.stop
        if params.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": params.logprobs}
        return json.dumps(body, ensure_ascii=False).encode()

    def reader(self, tokenizer: Any) -> "MessagesReader":
        """Reads the answer."""
        return MessagesReader(self)


class MessagesReader:
    """Makes vLLM's outputs of the chunks of a chat completion. Tokens are counted as its usage says."""

    def __init__(self, call: MessagesCall) -> None:
        self._call = call
        self._prompt_token_ids = list(call.prompt["prompt_token_ids"])
        self._numbers: dict[str, int] = {}
        self._next = itertools.count()
        self._tokens = 0
        self._usage: _Usage | None = None
        self._pieces = 0
        self._finish: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the finish reason has come."""
        return self._finish is not None

    def delta(self, payload: bytes) -> Iterator[RequestOutput]:
        """The outputs of one event. Raises Fault, or UpstreamError for an error within the stream."""
        if payload == DONE:
            if self.complete:
                yield self.last()
            return
        try:
            chunk = _Chunk.model_validate_json(payload)
        except ValidationError as error:
            if (message := message_of(payload)) is not None:
                raise told(status_of(payload), message) from error
            raise garbage("no chunk of a chat completion") from error
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices[:1]:
            positions = [] if choice.logprobs is None else choice.logprobs.content or []
            text = choice.delta.content or ""
            self._pieces += bool(text)
            self._finish = choice.finish_reason or self._finish
            if text or positions:
                self._tokens += len(positions)
                logprobs = [self._position(one) for one in positions]
                yield self._output(text, [self._number(one.token) for one in positions], logprobs, None)

    def whole(self, body: bytes) -> RequestOutput:
        """A stream was asked for. Raises Fault."""
        raise garbage("no stream of a chat completion")

    def last(self) -> RequestOutput:
        """The output that ends the call, with the tokens that were not told one by one."""
        # Without a count, for servers that give none, a chunk is a token.
        counted = self._usage.completion_tokens if self._usage is not None else self._pieces
        missing = max(counted - self._tokens, 0)
        reason = "abort" if self._finish is None else _STOPS.get(self._finish, "stop")
        output = self._output("", [self._number("")] * missing, [{}] * missing, reason)
        details = None if self._usage is None else self._usage.prompt_tokens_details
        output.num_cached_tokens = int((details or {}).get("cached_tokens") or 0)
        return output

    def _position(self, position: _Position) -> dict[int, Logprob]:
        entries = [position, *(one for one in position.top_logprobs if one.token != position.token)]
        better = sum(one.logprob > position.logprob for one in position.top_logprobs)
        ranks = {position.token: better + 1}
        for rank, one in enumerate(position.top_logprobs, 1):
            ranks.setdefault(one.token, rank)
        return {self._number(one.token): Logprob(one.logprob, ranks[one.token], one.token) for one in entries}

    def _number(self, token: str) -> int:
        if token not in self._numbers:
            self._numbers[token] = next(self._next)
        return self._numbers[token]

    def _output(
        self, text: str, token_ids: list[int], logprobs: list[dict[int, Logprob]], finish_reason: str | None
    ) -> RequestOutput:
        completion = CompletionOutput(
            index=0,
            text=text,
            token_ids=token_ids,
            cumulative_logprob=None,
            logprobs=logprobs if self._call.params.logprobs is not None else None,
            finish_reason=finish_reason,
        )
        return RequestOutput(
            request_id=self._call.request_id,
            prompt=None,
            prompt_token_ids=self._prompt_token_ids,
            prompt_logprobs=None,
            outputs=[completion],
            finished=finish_reason is not None,
            num_cached_tokens=0,
        )
