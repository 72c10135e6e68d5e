"""The Engine port over vLLM's AsyncLLM in this process."""

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vllm.engine.protocol import EngineClient
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionToolsParam
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import GenerationError, VLLMValidationError
from vllm.outputs import RequestOutput
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from server.engine.adapters import Adapters, Fitting
from server.engine.remote.replicas import Replicas
from server.engine.reports import report_pipe
from server.teacher import Teacher
from strategies.engine import (
    Capabilities,
    Capability,
    Cost,
    Example,
    FinishReason,
    Message,
    Piece,
    Prompt,
    PromptTooLong,
    Report,
    Sampling,
    Scored,
    Tool,
    Training,
)
from strategies.reports import ARGUMENT as REPORT_ARGUMENT
from strategies.srgen.admission import adapts_head

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "repetition": "stop",
    "length": "length",
    "abort": "abort",
}
_COPIED = (
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "include_stop_str_in_output",
    "ignore_eos",
    "logit_bias",
    "logprobs",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "thinking_token_budget",
)
_LENGTH_PARAMETERS = ("input_tokens", "input_text")
"""What vLLM calls the culprit when a prompt is too long."""
_OURS_ALONE = ("repetition_detection", "watermarking", "skip_reading_prefix_cache")


@dataclass(frozen=True, slots=True)
class Grammar:
    """What constrains an answer, and what vLLM must know of its reasoning to apply it at the right time."""

    structured_outputs: StructuredOutputsParams | None
    reasoning: Mapping[str, Any]
    """`reasoning_ended` and `reasoning_parser_kwargs` of AsyncLLM.generate."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What every engine call of one request carries beside prompt and sampling."""

    request_id: str
    template: ChatCompletionRequest
    """Renders further prompts of the request as its first one was rendered."""
    priority: int = 0
    session_id: str | None = None
    trace_headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Services:
    """What stands beside the engine, if the operator wants it."""

    adapters: Adapters | None = None
    """Trains adapters while requests wait."""
    teacher: Teacher | None = None
    upstream: Replicas | None = None
    """The servers that are the engine."""

    async def __aenter__(self) -> Self:
        """Begins to start what takes long to start."""
        if self.adapters is not None:
            self.adapters.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Ends all of it."""
        for service in (self.adapters, self.teacher, self.upstream):
            if service is not None:
                await service.close()


def sampling_from_vllm(params: SamplingParams, reasoning: Mapping[str, Any]) -> Sampling:
    """VLLM's parameters, as its serving classes resolved them from a request, in the port's terms."""
    stop = [params.stop] if isinstance(params.stop, str) else params.stop or []
    grammar = None
    if params.structured_outputs is not None or any(value is not None for value in reasoning.values()):
        grammar = Grammar(params.structured_outputs, reasoning)
    return Sampling(
        **{name: getattr(params, name) for name in _COPIED},
        max_tokens=params.max_tokens or 1,
        stop=tuple(stop),
        stop_token_ids=tuple(params.stop_token_ids or ()),
        bad_words=tuple(params.bad_words or ()),
        allowed_token_ids=None if params.allowed_token_ids is None else tuple(params.allowed_token_ids),
        grammar=grammar,
        engine={name: getattr(params, name) for name in _OURS_ALONE},
        extra=params.extra_args or {},
    )


def sampling_to_vllm(sampling: Sampling, report: str) -> SamplingParams:
    """The port's sampling as vLLM's parameters of one streamed branch, whose decoders report under a name."""
    grammar: Grammar | None = sampling.grammar
    return SamplingParams(
        **{name: getattr(sampling, name) for name in _COPIED},
        **sampling.engine,
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        bad_words=list(sampling.bad_words),
        allowed_token_ids=None if sampling.allowed_token_ids is None else list(sampling.allowed_token_ids),
        # Copied: vLLM writes the chosen backend into it, and the branches of one request share it.
        structured_outputs=None if grammar is None else copy.copy(grammar.structured_outputs),
        extra_args={**sampling.extra, REPORT_ARGUMENT: report} if sampling.extra else None,
        output_kind=RequestOutputKind.DELTA,
    )


def prompt_from_vllm(engine_input: Mapping[str, Any], messages: Sequence[Message] | None = None) -> Prompt:
    """A rendered prompt as vLLM has it, with the messages it was made of for an engine that takes no tokens.

    Raises ValueError for one without token ids (embeddings).
    """
    if engine_input.get("type") not in ("token", "multimodal"):
        raise ValueError("a strategy needs a prompt of tokens; prompt embeddings have none")
    attachments = {key: value for key, value in engine_input.items() if key not in _PROMPT_ONLY}
    if messages is not None:
        attachments["messages"] = [dict(message) for message in messages]
    return Prompt(tuple(engine_input["prompt_token_ids"]), attachments)


def _engine_input(prompt: Prompt) -> Any:
    return {**prompt.attachments, "prompt_token_ids": list(prompt.token_ids)}


_PROMPT_ONLY = frozenset({"prompt_token_ids", "prompt", "prompt_token_offsets", "arrival_time"})


class EmbeddedEngine:
    """vLLM as one request may use it.

    Args:
        client: the running AsyncLLM.
        renderer: vLLM's own chat renderer.
        options: what every call of this request carries.
        adapter: the LoRARequest that the client named, None for the served weights.
        services: what stands beside the engine.
    """

    def __init__(
        self,
        client: EngineClient,
        renderer: OnlineRenderer,
        options: CallOptions,
        adapter: Any = None,
        services: Services = Services(),
    ) -> None:
        self._client = client
        self._renderer = renderer
        self._options = options
        self._services = services
        self.capabilities = capabilities(client, adapter, services)

    async def render(self, messages: Sequence[Message], tools: Sequence[Tool] | None) -> Prompt:
        """Applies the chat template as vLLM does for the request itself."""
        choice = "auto" if tools and self._renderer.enable_auto_tools else "none"
        request = self._options.template.model_copy(
            update={
                "messages": [dict(message) for message in messages],
                "tools": None if tools is None else [ChatCompletionToolsParam.model_validate(tool) for tool in tools],
                "tool_choice": choice,
            }
        )
        try:
            rendered = await self._renderer.render_chat(request)
        except VLLMValidationError as error:
            if error.parameter in _LENGTH_PARAMETERS:
                raise PromptTooLong(str(error)) from error
            raise
        if isinstance(rendered, ErrorResponse):
            raise ValueError(rendered.error.message)
        return prompt_from_vllm(rendered[1][0], None if "tokens" in self.capabilities.names else messages)

    def encode(self, text: str) -> tuple[int, ...]:
        """By the model's tokenizer, without its special tokens around it."""
        return tuple(self._client.renderer.get_tokenizer().encode(text, add_special_tokens=False))

    def added_token(self, text: str) -> int | None:
        """By the model's tokenizer."""
        return self._client.renderer.get_tokenizer().get_added_vocab().get(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """By the model's tokenizer, special tokens left out."""
        return self._client.renderer.get_tokenizer().decode(token_ids, skip_special_tokens=True)

    def generate(self, prompt: Prompt, sampling: Sampling, adapter: Any = None) -> "EmbeddedStream":
        """Starts one branch as a vLLM request of its own, so that it joins the running batch."""
        return EmbeddedStream(self._client, prompt, sampling, adapter, self._options)

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[Sequence[int]],
        adapter: Any = None,
        *,
        on_cost: Callable[[Cost], None] = lambda cost: None,
    ) -> Sequence[Scored]:
        """First tokens as the engine samples one: among the likeliest, or where it may sample nothing else. That leaves
        the prompt in the prefix cache. Those behind them by the log-probabilities that vLLM has for prompts, of which
        few are left to be computed; it has none for a cached part, so not of a first token that a block begins with.
        """
        scoring = _Scoring(self._ask, adapter, on_cost)
        known = await scoring.likeliest(prompt, self.capabilities.max_logprobs)
        unlikely = list(dict.fromkeys(one[0] for one in continuations if one[0] not in known))
        async with asyncio.TaskGroup() as group:
            firsts = {token: group.create_task(scoring.next_token(prompt, token)) for token in unlikely}
            rests = [group.create_task(scoring.rest(prompt, continuation)) for continuation in continuations]
        known |= {token: task.result() for token, task in firsts.items()}
        return [Scored((known[one[0]], *rest.result())) for one, rest in zip(continuations, rests, strict=True)]

    async def _ask(self, prompt: Prompt, sampling: SamplingParams, adapter: Any) -> RequestOutput:
        options = self._options
        outputs: Any = self._client.generate(
            _engine_input(prompt),
            sampling,
            f"{options.request_id}-{uuid.uuid4().hex}",
            lora_request=adapter,
            trace_headers=options.trace_headers,
            priority=options.priority,
            session_id=options.session_id,
        )
        async with aclosing(outputs):
            output: RequestOutput = await anext(outputs)
        return output

    def grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """VLLM's structured output."""
        # From the first token on, whatever a model that thinks would rather say.
        return Grammar(StructuredOutputsParams(json=dict(schema)), {"reasoning_ended": True})

    def fit(self, examples: Sequence[Example], training: Training, *, keep: str | None = None) -> Fitting:
        """By the training process."""
        assert self._services.adapters is not None  # The capabilities say so.
        return self._services.adapters.fit(examples, training, keep)

    async def recall(self, name: str) -> Any:
        """Of those that earlier requests kept."""
        assert self._services.adapters is not None
        return await self._services.adapters.recall(name)

    async def drop(self, adapter: Any) -> None:
        """Gives its slot to the next."""
        assert self._services.adapters is not None
        await self._services.adapters.drop(adapter)

    async def teach(self, messages: Sequence[Message], schema: Mapping[str, Any], max_tokens: int) -> str:
        """By the operator's teacher."""
        assert self._services.teacher is not None
        return await self._services.teacher.teach(messages, schema, max_tokens)


LIKELIEST = 20
"""Tokens whose log-probabilities cost next to nothing more than one's."""


class _Scoring:
    """The requests of one score."""

    def __init__(
        self,
        ask: Callable[[Prompt, SamplingParams, Any], Awaitable[RequestOutput]],
        adapter: Any,
        on_cost: Callable[[Cost], None],
    ) -> None:
        self._ask_engine = ask
        self._adapter = adapter
        self._on_cost = on_cost

    async def likeliest(self, prompt: Prompt, most: int) -> dict[int, float]:
        """The log-probabilities of the likeliest tokens behind a prompt."""
        completion = (await self._ask(prompt, logprobs=min(most, LIKELIEST))).outputs[0]
        assert completion.logprobs is not None
        return {token: entry.logprob for token, entry in completion.logprobs[0].items()}

    async def next_token(self, prompt: Prompt, token: int) -> float:
        """The log-probability of one token behind a prompt. VLLM's are those before it keeps to the allowed ones."""
        completion = (await self._ask(prompt, allowed_token_ids=[token], logprobs=0)).outputs[0]
        assert completion.logprobs is not None
        return completion.logprobs[0][token].logprob

    async def rest(self, prompt: Prompt, continuation: Sequence[int]) -> list[float]:
        """The log-probabilities of a continuation's tokens but the first."""
        if len(continuation) == 1:
            return []
        # Reading the prefix cache is off by default here. What vLLM has for cached positions are no tokens.
        output = await self._ask(prompt + continuation, prompt_logprobs=0, skip_reading_prefix_cache=False)
        cached = max((output.num_cached_tokens or 0) - len(prompt), 0)
        async with asyncio.TaskGroup() as group:
            missing = [
                group.create_task(self.next_token(prompt + continuation[:i], continuation[i]))
                for i in range(1, cached + 1)
            ]
        entries = output.prompt_logprobs[len(prompt) + 1 + cached :] if output.prompt_logprobs else []
        known = zip(entries, continuation[1 + cached :], strict=True)
        return [one.result() for one in missing] + [entry[token].logprob for entry, token in known if entry]

    async def _ask(self, prompt: Prompt, **sampling: Any) -> RequestOutput:
        params = SamplingParams(
            max_tokens=1, temperature=0.0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **sampling
        )
        output = await self._ask_engine(prompt, params, self._adapter)
        self._on_cost(Cost(len(prompt), output.num_cached_tokens or 0, len(output.outputs[0].token_ids)))
        return output


class EmbeddedStream:
    """One vLLM request, in deltas."""

    def __init__(
        self, client: EngineClient, prompt: Prompt, sampling: Sampling, adapter: Any, options: CallOptions
    ) -> None:
        self._client = client
        self._prompt = prompt
        self._sampling = sampling
        self._adapter = adapter
        self._options = options
        # Never a client's alone: aborting by an id that another request has too would end that one with it.
        self._id = f"{options.request_id}-{uuid.uuid4().hex}"
        self._reports = report_pipe() if sampling.extra else None
        self._running = False
        self._stopped = False
        self._ended = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        if self._stopped:
            return
        self._running = True
        if self._reports is not None:
            self._reports.expect(self._id)
        try:
            async with aclosing(self._outputs()) as outputs:
                async for output in outputs:
                    yield _piece(output, self._take_reports())
        finally:
            self._ended.set()
            if self._reports is not None:
                self._reports.forget(self._id)

    async def stop(self) -> None:
        """Aborts the vLLM request; its last output then ends the iteration."""
        self._stopped = True
        # Repeated: an abort that overtakes its own request on the way to the engine finds nothing to abort.
        while self._running and not self._ended.is_set():
            await self._client.abort(self._id)
            try:
                await asyncio.wait_for(self._ended.wait(), timeout=0.1)
            except TimeoutError:
                continue

    def _take_reports(self) -> tuple[Report, ...]:
        if self._reports is None:
            return ()
        tokenizer = self._client.renderer.get_tokenizer()
        return tuple(with_texts(report, tokenizer) for report in self._reports.take(self._id))

    def _outputs(self) -> Any:
        grammar: Grammar | None = self._sampling.grammar
        return self._client.generate(
            _engine_input(self._prompt),
            sampling_to_vllm(self._sampling, self._id),
            self._id,
            lora_request=self._adapter,
            trace_headers=self._options.trace_headers,
            priority=self._options.priority,
            session_id=self._options.session_id,
            **({} if grammar is None else grammar.reasoning),
        )


def capabilities(
    client: EngineClient,
    adapter: Any = None,
    services: Services = Services(),
) -> Capabilities:
    """What this vLLM can do, with an adapter (LoRARequest) or without, and with what stands beside it."""
    config = client.model_config
    names: set[Capability] = {"tokens", "logprobs", "grammar", "scores"}
    # Under speculative decoding vLLM runs no logits processor of ours; an adapted head is not the one they know.
    offers: frozenset[Capability] | None = getattr(client, "offers", None)
    # What only a server elsewhere has, nobody here can look into.
    unknown = offers is not None and adapter is not None and not Path(adapter.lora_path).is_dir()
    adapted = adapter is not None and (unknown or adapts_head(adapter.lora_path))
    if client.vllm_config.speculative_config is None and not adapted:
        names.add("hidden_states")
    if offers is not None:
        names &= offers  # Servers elsewhere have been asked.
    # What is trained is trained on the served weights, not on top of another adapter.
    if services.adapters is not None and adapter is None:
        names.add("training")
    if services.teacher is not None:
        names.add("teacher")
    limit = config.max_logprobs
    lora = client.vllm_config.lora_config
    return Capabilities(
        names=frozenset(names),
        max_model_len=config.max_model_len,
        max_logprobs=config.get_vocab_size() if limit < 0 else limit,
        vocab_size=config.get_vocab_size(),
        end_tokens=_end_tokens(client),
        max_adapter_rank=0 if lora is None else lora.max_lora_rank,
        # As `redraft train` writes it.
        refine_token=getattr(config.hf_config, "refine_token", None),
    )


def _end_tokens(client: EngineClient) -> tuple[int, ...]:
    """The tokenizer's, and those of the checkpoint's generation_config.json."""
    listed = client.input_processor.generation_config_fields.get("eos_token_id")
    more = listed if isinstance(listed, list) else [listed]
    ends = {client.renderer.get_eos_token_id(), *more} - {None}
    return tuple(sorted(ends))


def with_texts(report: Report, tokenizer: Any) -> Report:
    """A report with the text of each of its tokens beside it."""
    tokens = {key: value for key, value in report.items() if key.startswith("token_")}
    texts = {key.replace("token_", "text_", 1): tokenizer.decode([token]) for key, token in tokens.items()}
    return {**report, **texts}


def _piece(output: RequestOutput, reports: tuple[Report, ...]) -> Piece:
    completion = output.outputs[0]
    if completion.finish_reason == "error":
        raise GenerationError("the engine failed on this request")
    return Piece(
        text=completion.text,
        token_ids=tuple(completion.token_ids),
        logprobs=None if completion.logprobs is None else tuple(completion.logprobs),  # type: ignore[arg-type]
        finish_reason=None if completion.finish_reason is None else _FINISH_REASONS[completion.finish_reason],
        stop_reason=completion.stop_reason,
        cached_tokens=output.num_cached_tokens or 0,
        reports=reports,
    )
