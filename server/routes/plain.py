"""Routes without strategies: completions."""

from fastapi import APIRouter, Depends, Request, Response

from server.gateway import Gateway, refuse_engine_fields
from server.vllm_api import (
    CompletionRequest,
    plain_completion,
    validate_json_request,
)

router = APIRouter()


@router.post("/v1/completions", dependencies=[Depends(validate_json_request)], response_model=None)
async def completions(request: CompletionRequest, raw_request: Request) -> Response:
    """OpenAI's legacy completions, by vLLM."""
    gateway = Gateway.of(raw_request)
    refuse_engine_fields(request)
    gateway.refuse_strategy(request.model, (request.model_extra or {}).get("strategy"))
    return await plain_completion(request, raw_request)
