"""vLLM's engine as its OpenAI serving classes see it, answering with a strategy's run instead of one call.

So a refined answer is validated, parsed (reasoning, tool calls), rendered, streamed and stored by the very classes
that serve plain answers: what they can do, a strategy's answer can do.
"""

import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from vllm.engine.protocol import EngineClient
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.sampling_params import RequestOutputKind, SamplingParams

from server.engine.embedded import CallOptions, EmbeddedEngine, Services, prompt_from_vllm, sampling_from_vllm
from strategies.base import Task
from strategies.engine import Engine, Generation, Message, Piece, Tool

ServingT = TypeVar("ServingT", OpenAIServingChat, OpenAIServingResponses)


class Answering(Protocol):
    """What turns a task into an answer; a StrategyRun."""

    def trace(self, parent: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """Starts the run's span; returns the trace headers of its engine calls."""
        ...

    def answer(self, task: Task, engine: Engine, adapter: Any) -> AsyncIterator[Piece]:
        """The pieces of the answer, as they come."""
        ...


def answered_by(
    serving: ServingT,
    run: Answering,
    template: ChatCompletionRequest,
    *,
    messages: Sequence[Message] | None,
    tools: Sequence[Tool] | None,
    tool: str | None = None,
    continues: bool = False,
    services: Services,
) -> ServingT:
    """A twin of a vLLM serving class for one request, whose engine is the strategy's run.

    A shallow copy: models, adapters, parsers and the store of responses stay shared with the original.

    Args:
        serving: vLLM's class.
        run: makes the answer.
        template: renders the run's further prompts as the first was rendered.
        messages: the conversation; None for what the serving class itself makes of a request (/v1/responses).
        tools: what the prompt offers.
        tool: the only one that the answer may call; None for any.
        continues: the prompt ends inside an assistant message.
        services: what stands beside the engine.
    """
    twin = copy.copy(serving)
    renderer = _RememberingRenderer(serving.online_renderer, messages)
    twin.online_renderer = renderer  # type: ignore[assignment]
    twin.engine_client = _AnsweringEngine(  # type: ignore[assignment]
        serving.engine_client, run, renderer, template, tools, tool, continues, services
    )
    return twin


class _RememberingRenderer:
    """vLLM's renderer; remembers the conversation that it rendered, which the engine is not told."""

    def __init__(self, renderer: OnlineRenderer, messages: Sequence[Message] | None) -> None:
        self.renderer = renderer
        self.messages = messages or ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.renderer, name)

    async def render_responses(self, request: Any, **options: Any) -> Any:
        rendered = await self.renderer.render_responses(request, **options)
        self.messages = list(getattr(rendered, "messages", ()))
        return rendered


class _AnsweringEngine:
    """An EngineClient whose `generate` runs a strategy; everything else is the real one."""

    def __init__(
        self,
        client: EngineClient,
        run: Answering,
        renderer: _RememberingRenderer,
        template: ChatCompletionRequest,
        tools: Sequence[Tool] | None,
        tool: str | None,
        continues: bool,
        services: Services,
    ) -> None:
        self._client = client
        self._run = run
        self._renderer = renderer
        self._template = template
        self._tools = tools
        self._tool = tool
        self._continues = continues
        self._services = services

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def generate(
        self,
        prompt: Mapping[str, Any],
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: Any = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        session_id: str | None = None,
        data_parallel_rank: int | None = None,
        **reasoning: Any,
    ) -> AsyncIterator[RequestOutput]:
        """The strategy's answer as vLLM's outputs: deltas for a stream, one whole output otherwise."""
        options = CallOptions(
            request_id, self._template, priority, session_id or request_id, self._run.trace(trace_headers)
        )
        engine = EmbeddedEngine(self._client, self._renderer.renderer, options, lora_request, self._services)
        takes_tokens = "tokens" in engine.capabilities.names
        task = Task(
            messages=self._renderer.messages,
            prompt=prompt_from_vllm(prompt, None if takes_tokens else self._renderer.messages),
            sampling=sampling_from_vllm(sampling_params, reasoning),
            tools=self._tools,
            continues=self._continues,
            tool=self._tool,
        )
        whole = sampling_params.output_kind == RequestOutputKind.FINAL_ONLY
        prompt_token_ids = list(task.prompt.token_ids)  # Once: a list for each token would cost as much as the prompt.
        pieces: list[Piece] = []
        async for piece in self._run.answer(task, engine, lora_request):
            if not whole:
                yield _output(request_id, task, prompt_token_ids, piece)
            pieces.append(piece)
        if whole:
            yield _output(request_id, task, prompt_token_ids, _joined(pieces))


def _joined(pieces: Sequence[Piece]) -> Piece:
    logprobs = [entry for piece in pieces for entry in piece.logprobs or ()]
    last = pieces[-1]
    return Generation(
        text="".join(piece.text for piece in pieces),
        token_ids=tuple(token for piece in pieces for token in piece.token_ids),
        logprobs=tuple(logprobs) if any(piece.logprobs is not None for piece in pieces) else None,
        finish_reason=last.finish_reason or "length",
        stop_reason=last.stop_reason,
    ).as_piece()


def _output(request_id: str, task: Task, prompt_token_ids: list[int], piece: Piece) -> RequestOutput:
    finish_reason = None if piece.finish_reason is None else "stop" if piece.finish_reason == "stop" else "length"
    wanted = task.sampling.logprobs is not None
    completion = CompletionOutput(
        index=0,
        text=piece.text,
        token_ids=list(piece.token_ids),
        cumulative_logprob=None,
        logprobs=list(piece.logprobs or ()) if wanted else None,  # type: ignore[arg-type]
        finish_reason=finish_reason,
        stop_reason=piece.stop_reason,
    )
    return RequestOutput(
        request_id=request_id,
        prompt=None,
        prompt_token_ids=prompt_token_ids,
        prompt_logprobs=None,
        outputs=[completion],
        finished=finish_reason is not None,
    )
