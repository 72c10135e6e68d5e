"""The routes of a gateway in front of servers elsewhere.

Plain requests are passed on as they came, unparsed but for what selects a strategy, and so are their answers: that
costs least, and changes nothing of what the servers do. Others are answered here, by a strategy over those servers.
"""

import json
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from server.errors import ApiError
from server.gateway import Gateway, refuse_engine_fields
from server.routes import chat, responses
from server.vllm_api import ChatCompletionRequest, ResponsesRequest, validate_json_request, with_cancellation

RequestT = TypeVar("RequestT", bound=BaseModel)

router = APIRouter()


@router.post("/v1/chat/completions", dependencies=[Depends(validate_json_request)], response_model=None)
async def chat_completions(raw_request: Request) -> Response:
    """OpenAI's chat completions, with an optional `strategy`."""
    gateway, body = Gateway.of(raw_request), await _body(raw_request)
    plan = gateway.plan(body.get("model"), body.get("strategy"))
    if plan is None:
        return await _forward(gateway, raw_request, body)
    return await chat.refined(gateway, plan, _validated(ChatCompletionRequest, body), raw_request)


@router.post("/v1/responses", dependencies=[Depends(validate_json_request)], response_model=None)
async def create_response(raw_request: Request) -> Response:
    """OpenAI's Responses API, with an optional `strategy`. Nothing is stored: another gateway would not have it."""
    gateway, body = Gateway.of(raw_request), await _body(raw_request)
    if body.get("previous_response_id") is not None or body.get("background"):
        raise ApiError(400, "this gateway stores no responses; send the whole conversation", "previous_response_id")
    plan = gateway.plan(body.get("model"), body.get("strategy"))
    if plan is None:
        return await _forward(gateway, raw_request, body)
    return await responses.refined(gateway, plan, _validated(ResponsesRequest, body), raw_request)


@router.post("/v1/completions", dependencies=[Depends(validate_json_request)], response_model=None)
async def completions(raw_request: Request) -> Response:
    """OpenAI's legacy completions."""
    gateway, body = Gateway.of(raw_request), await _body(raw_request)
    gateway.refuse_strategy(body.get("model"), body.get("strategy"))
    return await _forward(gateway, raw_request, body)


async def _body(raw_request: Request) -> dict[str, Any]:
    """What was sent, as far as it is a JSON object. Raises ApiError."""
    try:
        body = json.loads(await raw_request.body())
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body is no JSON object")
    if not isinstance(body.get("model"), str | None):
        raise ApiError(400, "model is a string", "model")
    arguments = body.get("vllm_xargs")
    refuse_engine_fields(
        SimpleNamespace(
            model_extra=body,
            vllm_xargs=arguments if isinstance(arguments, dict) else None,
            use_beam_search=body.get("use_beam_search"),
        )
    )
    return body


@with_cancellation
async def _forward(gateway: Gateway, raw_request: Request, body: Mapping[str, Any]) -> Response:
    assert gateway.proxy is not None  # These routes are mounted with it.
    model = body.get("model")
    return await gateway.proxy.forward(
        raw_request.url.path,
        raw_request.headers,
        await raw_request.body(),
        model if model in gateway.models() else None,
        time.monotonic() + gateway.settings.max_run_seconds,
        streams=bool(body.get("stream")),
    )


def _validated(model: type[RequestT], body: Mapping[str, Any]) -> RequestT:
    """As FastAPI validates a body: its errors go to the same handler."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(), body=body) from None
