"""vLLM's token routes: one engine call as their request, and what they answer as vLLM's own outputs."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError
from vllm.entrypoints.generate.base.protocol import StreamOptions
from vllm.entrypoints.scale_out.token_in_token_out.mm_features import extract_mm_features
from vllm.entrypoints.scale_out.token_in_token_out.protocol import (
    GenerateLogProb,
    GenerateLogProbs,
    GenerateLogProbsContent,
    GenerateRequest,
    GenerateTokensResponse,
    GenerateTokensStreamResponse,
)
from vllm.entrypoints.serve.engine.protocol import UsageInfo
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsLists

from server.engine.remote.faults import garbage, message_of, status_of, told
from server.engine.remote.sse import DONE

GENERATE = "/inference/v1/generate"
ABORT = "/inference/v1/abort_requests"
ID_PREFIX = "generate-tokens-"
"""What that route puts before the id of a request."""


@dataclass(frozen=True, slots=True)
class TokenCall:
    """One engine call, as vLLM's `generate` is asked for it."""

    request_id: str
    model: str
    prompt: Any
    """As vLLM's renderer makes it."""
    params: SamplingParams
    path: str = GENERATE
    priority: int = 0
    reasoning_ended: bool | None = None
    reasoning_parser_kwargs: Mapping[str, Any] | None = None
    max_logprobs: int = 20
    """As many as the route gives."""

    def body(self) -> bytes:
        """The route's request as JSON."""
        stream = self.params.output_kind == RequestOutputKind.DELTA
        request = GenerateRequest(
            request_id=self.request_id,
            token_ids=list(self.prompt["prompt_token_ids"]),
            features=extract_mm_features(self.prompt, metadata_fields_for=lambda modality: set(), mm_payload="tensors"),
            sampling_params=self.params,
            model=self.model,
            reasoning_ended=self.reasoning_ended,
            reasoning_parser_kwargs=self.reasoning_parser_kwargs,
            stream=stream,
            stream_options=StreamOptions(include_usage=True) if stream else None,
            cache_salt=self.prompt.get("cache_salt"),
            priority=self.priority,
        )
        body = request.model_dump(mode="json", exclude_none=True)
        # Left out of the dump where it is vLLM's default, and then the route would take it for not given.
        body["sampling_params"]["max_tokens"] = self.params.max_tokens
        if self.params.logprobs:
            # One more than wanted: the route counts the sampled token among the likeliest, and cuts.
            body["sampling_params"]["logprobs"] = min(self.params.logprobs + 1, self.max_logprobs)
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()

    def reader(self, tokenizer: Any) -> "Reader":
        """Reads the answer."""
        return Reader(self, tokenizer)


class Reader:
    """Makes vLLM's outputs of what the route sends about one call: text, log-probabilities, counts.

    Args:
        call: what was asked.
        tokenizer: the model's; the route sends no text with log-probabilities.
    """

    def __init__(self, call: TokenCall, tokenizer: Any) -> None:
        self._call = call
        self._prompt = list(call.prompt["prompt_token_ids"])
        request = EngineCoreRequest(
            request_id=call.request_id,
            prompt_token_ids=self._prompt,
            mm_features=None,
            sampling_params=call.params,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        known = tokenizer if call.params.detokenize else None
        self._detokenizer = IncrementalDetokenizer.from_new_request(known, request)
        self._processor = LogprobsProcessor.from_new_request(known, request)
        self._last: RequestOutput | None = None
        """Held until the counts come, which are in a chunk behind it."""

    def delta(self, payload: bytes) -> Iterator[RequestOutput]:
        """The outputs of one event of a stream. Raises Fault, or UpstreamError for an error within it."""
        if payload == DONE:
            if self.complete:
                yield self.last()
            return
        try:
            chunk = GenerateTokensStreamResponse.model_validate_json(payload)
        except ValidationError as error:
            if (message := message_of(payload)) is not None:
                raise told(status_of(payload), message) from error
            raise garbage("no event of vLLM's token route") from error
        if chunk.usage is not None and self._last is not None:
            self._last.num_cached_tokens = _cached(chunk.usage)
        for choice in chunk.choices:
            output = self._output(choice.token_ids or [], choice.logprobs, choice.finish_reason, choice.stop_reason)
            if output.finished:
                self._last = output
            else:
                yield output

    @property
    def complete(self) -> bool:
        """Whether the finish reason has come."""
        return self._last is not None

    def last(self) -> RequestOutput:
        """The output that ends the call: of a call that was told to stop, and of which no end was heard, an abort."""
        return self._last or self._output([], None, "abort", None)

    def whole(self, body: bytes) -> RequestOutput:
        """The output of an answer that does not stream. Raises Fault."""
        try:
            response = GenerateTokensResponse.model_validate_json(body)
            (choice,) = response.choices
        except ValueError as error:
            raise garbage("no answer of vLLM's token route") from error
        reason = choice.finish_reason or "stop"
        output = self._output(choice.token_ids or [], choice.logprobs, reason, choice.stop_reason)
        output.prompt_logprobs = response.prompt_logprobs
        output.num_cached_tokens = _cached(response.usage)
        return output

    def _output(
        self,
        token_ids: Sequence[int],
        logprobs: GenerateLogProbs | None,
        finish_reason: str | None,
        stop_reason: int | str | None,
    ) -> RequestOutput:
        # As vLLM's own output processor does: a token that ends the answer has no text, a stop string is cut off.
        by_token = finish_reason == "stop" and not isinstance(stop_reason, str)
        self._detokenizer.update(list(token_ids), by_token)
        completion = CompletionOutput(
            index=0,
            text=self._detokenizer.get_next_output_text(finish_reason is not None, delta=True),
            token_ids=list(token_ids),
            cumulative_logprob=None,
            logprobs=self._logprobs(logprobs),
            finish_reason=finish_reason,
            stop_reason=stop_reason,
        )
        return RequestOutput(
            request_id=self._call.request_id,
            prompt=None,
            prompt_token_ids=self._prompt,
            prompt_logprobs=None,
            outputs=[completion],
            finished=finish_reason is not None,
            num_cached_tokens=0,
        )

    def _logprobs(self, logprobs: GenerateLogProbs | None) -> list[dict[int, Logprob]] | None:
        """As vLLM's own output processor makes them of what its engine says, with the same texts of tokens."""
        if self._call.params.logprobs is None:
            return None
        contents = [] if logprobs is None else logprobs.content or []
        for content in contents:
            row = self._row(content)
            told = LogprobsLists(
                logprob_token_ids=np.array([[one.token_id for one in row]]),
                logprobs=np.array([[one.logprob for one in row]]),
                sampled_token_ranks=np.array([content.rank or 0]),
            )
            self._processor.update_from_output(EngineCoreOutput(self._call.request_id, [content.token_id], told))
        made: Any = self._processor.logprobs  # All so far: the text of a token may depend on those before it.
        return list(made[len(made) - len(contents) :])

    def _row(self, content: GenerateLogProbsContent) -> list[GenerateLogProb]:
        """The sampled token, then the likeliest ones that were asked for, with it where it is one of them."""
        entries = {one.token_id: one for one in (content, *content.top_logprobs)}
        ranked = sorted((one.rank, token) for token, one in entries.items() if one.rank is not None)
        wanted = self._call.params.logprobs or 0
        return [content, *(entries[token] for rank, token in ranked if rank <= wanted)]


def _cached(usage: UsageInfo | None) -> int:
    details = None if usage is None else usage.prompt_tokens_details
    return 0 if details is None else details.cached_tokens or 0
