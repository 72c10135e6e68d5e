"""Routes that are the same whatever the engine is: tokenization and health."""

from fastapi import APIRouter, Request, Response

from server.gateway import Gateway
from server.vllm_api import EngineDeadError, tokenization_routes

router = APIRouter()
for method, path, endpoint in tokenization_routes():
    router.add_api_route(path, endpoint, methods=[method], response_model=None)


@router.get("/health", response_class=Response)
async def health(request: Request) -> Response:
    """200 while the engine lives, or one server of a remote one is there; else 503."""
    try:
        await Gateway.of(request).vllm.engine_client.check_health()
    except EngineDeadError:
        return Response(status_code=503)
    return Response(status_code=200)
