"""The one module that mounts vLLM's OpenAI routes and serving classes; the gateway imports vLLM's types from here."""

import argparse
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, ParamSpec, cast

from fastapi import FastAPI, Response
from starlette.datastructures import State
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.utils.server_utils import lifespan
from vllm.entrypoints.openai.chat_completion import api_router as chat_api
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionRequest,
    ChatCompletionResponse,
    ChatCompletionToolsParam,
)
from vllm.entrypoints.openai.completion import api_router as completion_api
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses import api_router as responses_api
from vllm.entrypoints.openai.responses.protocol import (
    InputTokensDetails,
    OutputTokensDetails,
    ResponsesRequest,
    ResponsesResponse,
    ResponseUsage,
)
from vllm.entrypoints.openai.responses.utils import construct_tool_dicts, should_continue_final_message
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.entrypoints.serve.instrumentator.metrics import attach_router as attach_metrics
from vllm.entrypoints.serve.tokenize import api_router as tokenize_api
from vllm.entrypoints.serve.utils.api_utils import validate_json_request
from vllm.entrypoints.serve.utils.api_utils import with_cancellation as _with_cancellation
from vllm.lora.request import LoRARequest
from vllm.tokenizers.detokenizer_utils import get_leading_space_marker
from vllm.usage.usage_lib import UsageContext
from vllm.utils.system_utils import set_ulimit
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from server.engine.adapters import Adapters
from server.engine.answering import answered_by
from server.engine.embedded import Services, capabilities
from server.engine.remote.client import CallFailed, RemoteClient
from server.engine.remote.config import remote_config
from server.engine.remote.probe import Found
from server.engine.remote.replicas import Replicas
from server.engine.reports import report_pipe

__all__ = [
    "Adapters",
    "CallFailed",
    "ChatCompletionNamedToolChoiceParam",
    "ChatCompletionRequest",
    "ChatCompletionResponse",
    "ChatCompletionToolsParam",
    "CompletionRequest",
    "EngineClient",
    "EngineDeadError",
    "ErrorResponse",
    "InputTokensDetails",
    "OutputTokensDetails",
    "ResponseUsage",
    "ResponsesRequest",
    "ResponsesResponse",
    "Services",
    "add_vllm_error_handlers",
    "answered_by",
    "attach_metrics",
    "capabilities",
    "construct_tool_dicts",
    "error_response",
    "lifespan",
    "list_adapters",
    "listed_models",
    "mount_state",
    "plain_chat",
    "plain_completion",
    "plain_responses",
    "raise_file_limit",
    "remote_engine",
    "running_engine",
    "should_continue_final_message",
    "stored_response_routes",
    "tokenization_routes",
    "validate_json_request",
    "with_cancellation",
]

P = ParamSpec("P")

raise_file_limit: Callable[[], None] = set_ulimit
"""As `vllm serve` does: each connection takes a file."""
add_vllm_error_handlers: Callable[[FastAPI], None] = init_exception_handler

plain_chat: Callable[..., Awaitable[Response]] = chat_api.create_chat_completion
plain_completion: Callable[..., Awaitable[Response]] = completion_api.create_completion
plain_responses: Callable[..., Awaitable[Response]] = responses_api.create_responses


def with_cancellation(handler: Callable[P, Awaitable[Response]]) -> Callable[P, Awaitable[Response]]:
    """Cancels a handler, whose second argument is the raw request, when its client disconnects."""
    wrapped: Callable[P, Awaitable[Response]] = _with_cancellation(handler)  # type: ignore[no-untyped-call]
    return wrapped


def error_response(error: Exception) -> ErrorResponse:
    """OpenAI's envelope for an error, with the status that vLLM gives it."""
    if isinstance(error, EngineDeadError):
        return create_error_response(str(error), "ServiceUnavailableError", HTTPStatus.SERVICE_UNAVAILABLE)
    return create_error_response(error)


@contextmanager
def running_engine(args: argparse.Namespace) -> Iterator[EngineClient]:
    """VLLM's engine as `vllm serve` starts it, ended with the context."""
    report_pipe()  # The engine's processes find it by their environment.
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs.from_cli_args(args), usage_context=UsageContext.OPENAI_API_SERVER
    )
    try:
        yield engine
    finally:
        engine.shutdown(timeout=0)


def remote_engine(args: argparse.Namespace, replicas: Replicas, found: Found) -> EngineClient:
    """Servers elsewhere, as an engine. Its configuration comes from the model's files on this machine."""
    return cast(EngineClient, RemoteClient(replicas, remote_config(args), found))


def list_adapters(state: State, adapters: Mapping[str, str]) -> None:
    """Has requests find adapters that the engine serves already: folder by name."""
    serving = state.openai_serving_models
    for name, folder in adapters.items():
        serving.lora_requests.setdefault(name, LoRARequest(name, serving.lora_id_counter.inc(1), folder))


async def mount_state(engine: EngineClient, state: State, args: argparse.Namespace) -> None:
    """Makes vLLM's serving classes, as `vllm serve` has them with these arguments, in the application's state."""
    await engine.reset_mm_cache()
    # vLLM finds it out at the first request with log-probabilities, 65 ms in which the event loop stands still.
    get_leading_space_marker(engine.renderer.get_tokenizer())
    await init_app_state(engine, state, args, await engine.get_supported_tasks())


def tokenization_routes() -> Sequence[tuple[str, str, Callable[..., Any]]]:
    """Routes of vLLM about tokens, which the gateway serves unchanged: method, path, endpoint."""
    return (
        ("POST", "/tokenize", tokenize_api.tokenize),
        ("POST", "/detokenize", tokenize_api.detokenize),
    )


def stored_response_routes() -> Sequence[tuple[str, str, Callable[..., Any]]]:
    """Routes of vLLM about the responses that it has stored, which the gateway serves unchanged."""
    return (
        ("GET", "/v1/responses/{response_id}", responses_api.retrieve_responses),
        ("POST", "/v1/responses/{response_id}/cancel", responses_api.cancel_responses),
    )


async def listed_models(state: State) -> list[dict[str, Any]]:
    """The served models and adapters, as /v1/models has them; but where adapters lie is the operator's business."""
    listing = await state.openai_serving_models.show_available_models()
    cards = [card.model_dump() for card in listing.data]
    return [card if card["parent"] is None else {**card, "root": card["id"]} for card in cards]
