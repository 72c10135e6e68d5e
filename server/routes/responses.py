"""POST /v1/responses: plain requests go to vLLM's own serving class, others through a strategy.

The thoughts of a strategy are one reasoning item before vLLM's own output items.
"""

import json
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from openai.types.responses import ToolChoiceFunction

from server.gateway import Gateway, refuse_engine_fields, refuse_fields
from server.resolve import Plan
from server.run import StrategyRun, Transcript, event_object
from server.streaming import HEARTBEAT, Merged, Rendered, RunResponse
from server.vllm_api import (
    ChatCompletionRequest,
    ErrorResponse,
    InputTokensDetails,
    OutputTokensDetails,
    ResponsesRequest,
    ResponsesResponse,
    ResponseUsage,
    answered_by,
    construct_tool_dicts,
    error_response,
    plain_responses,
    should_continue_final_message,
    stored_response_routes,
    validate_json_request,
    with_cancellation,
)
from strategies.base import Event, Thought

router = APIRouter()
for method, path, endpoint in stored_response_routes():
    router.add_api_route(path, endpoint, methods=[method], response_model=None)
logger = logging.getLogger("redraft.responses")


@router.post("/v1/responses", dependencies=[Depends(validate_json_request)], response_model=None)
async def responses(request: ResponsesRequest, raw_request: Request) -> Response:
    """OpenAI's responses, with an optional `strategy`."""
    gateway = Gateway.of(raw_request)
    refuse_engine_fields(request)
    plan = gateway.plan(request.model, (request.model_extra or {}).get("strategy"))
    if plan is None:
        return await plain_responses(request, raw_request)
    return await refined(gateway, plan, request, raw_request)


async def refined(gateway: Gateway, plan: Plan, request: ResponsesRequest, raw_request: Request) -> Response:
    """The answer of a strategy."""
    refuse_fields(request, background=False, kv_transfer_params=None)
    request.model = plan.model
    if request.stream:
        return await _streamed(gateway, plan, request, raw_request)
    return await _whole(request, raw_request, gateway, plan)


@with_cancellation
async def _whole(request: ResponsesRequest, raw_request: Request, gateway: Gateway, plan: Plan) -> Response:
    transcript = Transcript()
    run = gateway.run_of(plan, request.include_reasoning)(transcript)
    try:
        response = await _serving(gateway, run, request).create_responses(request, raw_request)
    finally:
        await run.close()
    if isinstance(response, ErrorResponse):
        return JSONResponse(response.model_dump(mode="json", by_alias=True), response.error.code)
    _complete(response, run, plan)
    body = response.model_dump(mode="json", by_alias=True)
    if request.include_reasoning and (thoughts := transcript.text()) is not None:
        body["output"].insert(0, _reasoning_item(_item_id(), thoughts))
    return JSONResponse(body)


async def _streamed(gateway: Gateway, plan: Plan, request: ResponsesRequest, raw_request: Request) -> Response:
    async with AsyncExitStack() as stack:
        merged: Merged[Any] = Merged(
            gateway.run_of(plan, request.include_reasoning), gateway.settings.heartbeat_seconds
        )
        stack.push_async_callback(merged.close)
        rendered = await _serving(gateway, merged.run, request).create_responses(request, raw_request)
        if isinstance(rendered, ErrorResponse):
            return JSONResponse(rendered.model_dump(mode="json", by_alias=True), rendered.error.code)
        await merged.start(rendered)
        stack.pop_all()
    return RunResponse(_write(merged, _EventWriter(merged.run, plan, request.include_reasoning)), merged)


async def _write(merged: Merged[Any], writer: "_EventWriter") -> AsyncIterator[str]:
    try:
        async for item in merged:
            if item is None:
                yield HEARTBEAT
                continue
            events = writer.answer(item.item) if isinstance(item, Rendered) else writer.event(item)
            for event in events:
                yield event
    except Exception as error:
        # The status is sent, and vLLM's own stream would just break off: the stream says what happened.
        logger.exception("a stream of /v1/responses failed")
        yield writer.failed(error)


def _serving(gateway: Gateway, run: StrategyRun, request: ResponsesRequest) -> Any:
    continues = should_continue_final_message(request.input)
    template = ChatCompletionRequest(
        model=request.model,
        messages=[],
        chat_template_kwargs=request.chat_template_kwargs,
        reasoning_effort=None if request.reasoning is None else request.reasoning.effort,
        mm_processor_kwargs=request.mm_processor_kwargs,
        cache_salt=request.cache_salt,
    )
    return answered_by(
        gateway.vllm.openai_serving_responses,
        run,
        template,
        messages=None,
        tools=construct_tool_dicts(request.tools, request.tool_choice, exclude_tools_when_tool_choice_none=True),
        tool=choice.name if isinstance(choice := request.tool_choice, ToolChoiceFunction) else None,
        continues=continues,
        services=gateway.services,
    )


def _complete(response: ResponsesResponse, run: StrategyRun, plan: Plan) -> None:
    """Gives a finished response the run's usage and report. In place: the store of responses holds this very object.

    The thoughts stay out of it, and so out of the next turn's prompt.
    """
    usage = run.usage
    own = 0 if response.usage is None else response.usage.output_tokens_details.reasoning_tokens
    response.usage = ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens, cache_write_tokens=0),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=run.hidden_tokens + own),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
    response.model = plan.alias or response.model
    response.strategy = run.report()  # type: ignore[attr-defined]


def _item_id() -> str:
    return f"rs_{uuid.uuid4().hex}"


def _reasoning_item(item_id: str, text: str | None) -> dict[str, Any]:
    content = [] if text is None else [{"type": "reasoning_text", "text": text}]
    status = "in_progress" if text is None else "completed"
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content, "status": status}


class _EventWriter:
    """Writes the events of one stream: an item of reasoning for the thoughts, then vLLM's own items after it."""

    def __init__(self, run: StrategyRun, plan: Plan, include_reasoning: bool) -> None:
        self._run = run
        self._plan = plan
        self._include_reasoning = include_reasoning
        self._sequence = 0
        self._item_id = _item_id()
        self._transcript = Transcript()
        self._thinking = False
        self._items: list[dict[str, Any]] = []

    def event(self, event: Event) -> Iterator[str]:
        """A thought or a note, as a delta of the reasoning item."""
        self._transcript(event)
        at = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        if self._items or not self._include_reasoning:
            return  # What comes after the answer has begun, or unasked, stands in the report.
        if not self._thinking:
            self._thinking = True
            item = _reasoning_item(self._item_id, None)
            yield self._sse({"type": "response.output_item.added", "output_index": 0, "item": item})
            part = {"type": "reasoning_text", "text": ""}
            yield self._sse({"type": "response.content_part.added", **at, "part": part})
        text = event.text if isinstance(event, Thought) else ""
        yield self._sse({"type": "response.reasoning_text.delta", **at, "delta": text, "strategy": event_object(event)})

    def answer(self, event: Any) -> Iterator[str]:
        """One of vLLM's events, moved behind the reasoning item."""
        if isinstance(response := getattr(event, "response", None), ResponsesResponse) and response.usage is not None:
            _complete(response, self._run, self._plan)
        body: dict[str, Any] = json.loads(event.model_dump_json(by_alias=True))
        if "output_index" in body or body.get("type") == "response.completed":
            yield from self._end_thinking()
        if "output_index" in body:
            body["output_index"] += len(self._items)
        if "response" in body:
            body["response"]["model"] = self._plan.alias or body["response"]["model"]
            body["response"]["output"] = [*self._items, *body["response"]["output"]]
        yield self._sse(body)

    def failed(self, error: Exception) -> str:
        """The event that ends a stream which cannot go on."""
        envelope = error_response(error).error
        return self._sse(
            {"type": "error", "code": str(envelope.code), "message": envelope.message, "param": envelope.param}
        )

    def _end_thinking(self) -> Iterator[str]:
        if not self._thinking or self._items:
            return
        text = self._transcript.text() or ""
        item = _reasoning_item(self._item_id, text)
        self._items.append(item)
        at = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        yield self._sse({"type": "response.reasoning_text.done", **at, "text": text})
        yield self._sse({"type": "response.content_part.done", **at, "part": item["content"][0]})
        yield self._sse({"type": "response.output_item.done", "output_index": 0, "item": item})

    def _sse(self, body: dict[str, Any]) -> str:
        body["sequence_number"] = self._sequence
        self._sequence += 1
        return f"event: {body.get('type', 'error')}\ndata: {json.dumps(body, ensure_ascii=False)}\n\n"
