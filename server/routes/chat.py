"""POST /v1/chat/completions: plain requests go to vLLM's own serving class, others through a strategy."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from server.errors import engine_died
from server.gateway import Gateway, refuse_engine_fields, refuse_fields
from server.resolve import Plan
from server.run import StrategyRun, Transcript, event_object
from server.streaming import HEARTBEAT, Merged, Rendered, RunResponse
from server.vllm_api import (
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionRequest,
    EngineDeadError,
    ErrorResponse,
    answered_by,
    plain_chat,
    validate_json_request,
    with_cancellation,
)
from strategies.base import Event, Thought

router = APIRouter()


@router.post("/v1/chat/completions", dependencies=[Depends(validate_json_request)], response_model=None)
async def chat_completions(request: ChatCompletionRequest, raw_request: Request) -> Response:
    """OpenAI's chat completions, with an optional `strategy`."""
    gateway = Gateway.of(raw_request)
    refuse_engine_fields(request)
    plan = gateway.plan(request.model, (request.model_extra or {}).get("strategy"))
    if plan is None:
        return await plain_chat(request, raw_request)
    return await refined(gateway, plan, request, raw_request)


async def refined(gateway: Gateway, plan: Plan, request: ChatCompletionRequest, raw_request: Request) -> Response:
    """The answer of a strategy."""
    refuse_fields(request, n=1, use_beam_search=False, prompt_logprobs=None, kv_transfer_params=None, echo=False)
    request.model = plan.model
    if request.stream:
        return await _streamed(gateway, plan, request, raw_request)
    return await _whole(request, raw_request, gateway, plan)


@with_cancellation
async def _whole(request: ChatCompletionRequest, raw_request: Request, gateway: Gateway, plan: Plan) -> Response:
    transcript = Transcript()
    run = gateway.run_of(plan, request.include_reasoning)(transcript)
    try:
        serving = await _serving(gateway, run, request, raw_request)
        response = await serving.create_chat_completion(request, raw_request)
    finally:
        await run.close()
    if isinstance(response, ErrorResponse):
        return JSONResponse(response.model_dump(), response.error.code)
    body = response.model_dump()
    message = body["choices"][0]["message"]
    thoughts = [transcript.text(), message.get("reasoning")]
    message["reasoning"] = "\n\n".join(filter(None, thoughts)) or None
    body["model"] = plan.alias or body["model"]
    body["usage"] = run.chat_usage(_answer_reasoning(body.get("usage")))
    body["strategy"] = run.report()
    return JSONResponse(body)


async def _streamed(gateway: Gateway, plan: Plan, request: ChatCompletionRequest, raw_request: Request) -> Response:
    async with AsyncExitStack() as stack:
        merged: Merged[str] = Merged(
            gateway.run_of(plan, request.include_reasoning), gateway.settings.heartbeat_seconds
        )
        stack.push_async_callback(merged.close)
        serving = await _serving(gateway, merged.run, request, raw_request)
        rendered = await serving.create_chat_completion(request, raw_request)
        if isinstance(rendered, ErrorResponse):
            return JSONResponse(rendered.model_dump(), rendered.error.code)
        await merged.start(rendered)
        chunks = _ChunkWriter(merged.run, plan, raw_request.state.request_metadata.request_id)
        stack.pop_all()
    return RunResponse(_write(merged, chunks), merged)


async def _write(merged: Merged[str], chunks: "_ChunkWriter") -> AsyncIterator[str]:
    async for item in merged:
        if item is None:
            yield HEARTBEAT
        elif isinstance(item, Rendered):
            for line in chunks.answer(item.item):
                yield line
        else:
            yield chunks.event(item)


async def _serving(gateway: Gateway, run: StrategyRun, request: ChatCompletionRequest, raw_request: Request) -> Any:
    continues = request.continue_final_message or not request.add_generation_prompt
    template = request.model_copy(
        update={
            "messages": [],
            # A prompt is too long where no token fits behind it, not where this answer's would not.
            "max_tokens": None,
            "max_completion_tokens": None,
            "stream": False,
            "response_format": None,
            "structured_outputs": None,
            "continue_final_message": False,
            "add_generation_prompt": True,
        }
    )
    # As sent: in the parsed request, lists of content parts are iterators that can be read once.
    body, choice = await raw_request.json(), request.tool_choice
    return answered_by(
        gateway.vllm.openai_serving_chat,
        run,
        template,
        messages=body["messages"],
        tools=None if request.tool_choice == "none" else body.get("tools"),
        tool=choice.function.name if isinstance(choice, ChatCompletionNamedToolChoiceParam) else None,
        continues=continues,
        services=gateway.services,
    )


class _ChunkWriter:
    """Writes chunks of one stream: thoughts and notes as they are, vLLM's own with what is known beside them."""

    def __init__(self, run: StrategyRun, plan: Plan, completion_id: str) -> None:
        self._run = run
        self._base = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": plan.alias or plan.model,
        }
        self._role_sent = False
        self._finished = False
        self._last: dict[str, Any] | None = None
        """The chunk with the finish reason, held until the run is over and its report is complete."""

    def event(self, event: Event) -> str:
        """A thought, or a note, as a chunk of its own."""
        delta: dict[str, Any] = {} if self._role_sent else {"role": "assistant", "content": ""}
        self._role_sent = True
        if isinstance(event, Thought):
            delta["reasoning"] = event.text
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return _sse({**self._base, "choices": [choice], "strategy": event_object(event)})

    def answer(self, line: str) -> Iterator[str]:
        """One of vLLM's chunks, with the run's usage and report where they belong."""
        data = line.removeprefix("data: ").rstrip("\n")
        chunk: dict[str, Any] = {} if data == "[DONE]" else json.loads(data)
        if self._last is not None:
            yield _sse(self._last | {"strategy": self._last["strategy"] | self._run.report()})
            self._last = None
        if not (chunk.get("choices") or "error" in chunk or self._finished):
            # vLLM sends no chunk for an answer without a single token; a stream still ends with its reason.
            self._finished = True
            yield self._empty_answer()
        if not chunk or "error" in chunk:
            self._finished = True
            # vLLM calls every error in a stream a 500; a client should know that it may try elsewhere.
            died = chunk and any(isinstance(failure, EngineDeadError) for failure in self._run.failures)
            yield _sse(engine_died().body()) if died else line
            return
        chunk |= self._base
        for choice in chunk["choices"]:
            if self._role_sent:
                choice["delta"].pop("role", None)
            self._role_sent = True
            chunk["strategy"] = _ANSWER_EVENT
            if choice.get("finish_reason") is not None:
                self._last = chunk
                self._finished = True
        if chunk.get("usage") is not None:
            chunk["usage"] = self._run.chat_usage(_answer_reasoning(chunk["usage"]))
        if self._last is None:
            yield _sse(chunk)

    def _empty_answer(self) -> str:
        delta = {} if self._role_sent else {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": "length"}
        return _sse({**self._base, "choices": [choice], "strategy": {**_ANSWER_EVENT, **self._run.report()}})


_ANSWER_EVENT = {"event": "answer", "branch": 0, "role": "final", "note": None}


def _sse(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _answer_reasoning(usage: dict[str, Any] | None) -> int:
    """Reasoning tokens that vLLM's parser found within the answer itself."""
    details = (usage or {}).get("completion_tokens_details") or {}
    return int(details.get("reasoning_tokens") or 0)
