"""Routes without strategies: completions, tokenization and health."""

from fastapi import APIRouter, Depends, Request, Response

from server.gateway import Gateway, refuse_engine_fields
from server.vllm_api import (
    CompletionRequest,
    EngineDeadError,
    plain_completion,
    unchanged_routes,
    validate_json_request,
)

router = APIRouter()
for method, path, endpoint in unchanged_routes():
    router.add_api_route(path, endpoint, methods=[method], response_model=None)


@router.post("/v1/completions", dependencies=[Depends(validate_json_request)], response_model=None)
async def completions(request: CompletionRequest, raw_request: Request) -> Response:
    """OpenAI's legacy completions, by vLLM."""
    gateway = Gateway.of(raw_request)
    refuse_engine_fields(request)
    gateway.refuse_strategy(request.model, (request.model_extra or {}).get("strategy"))
    return await plain_completion(request, raw_request)


@router.get("/health", response_class=Response)
async def health(request: Request) -> Response:
    """200 while the engine lives, 503 once it has died."""
    try:
        await Gateway.of(request).vllm.engine_client.check_health()
    except EngineDeadError:
        return Response(status_code=503)
    return Response(status_code=200)
