"""What there is: GET /v1/models and GET /v1/strategies."""

from typing import Any

from fastapi import APIRouter, Request

from server.errors import ApiError
from server.gateway import Gateway
from server.vllm_api import listed_models
from strategies.base import Plugin, Strategy

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """Models and adapters, and each of them with one strategy."""
    gateway = Gateway.of(request)
    cards = await listed_models(gateway.vllm)
    runnable = [name for name, plugin in gateway.strategies.items() if plugin.needs <= gateway.capabilities.names]
    aliases = [{**card, "id": f"{card['id']}@{name}", "parent": card["id"]} for card in cards for name in runnable]
    return {"object": "list", "data": cards + aliases}


@router.get("/v1/models/{model_id:path}")
async def model(model_id: str, request: Request) -> dict[str, Any]:
    """One entry of the list."""
    for card in (await models(request))["data"]:
        if card["id"] == model_id:
            found: dict[str, Any] = card
            return found
    raise ApiError(404, f"the model {model_id!r} does not exist", "model")


@router.get("/v1/strategies")
async def strategies(request: Request) -> dict[str, Any]:
    """Strategies with their parameters, and whether this engine can run them."""
    gateway = Gateway.of(request)
    data = [_card(plugin, gateway) for plugin in gateway.strategies.values()]
    return {"object": "list", "data": data, "engine": _engine(gateway)}


def _engine(gateway: Gateway) -> dict[str, Any]:
    able = gateway.capabilities
    return {
        "kind": gateway.settings.engine,
        "capabilities": sorted(able.names),
        "max_model_len": able.max_model_len,
        "max_logprobs": able.max_logprobs,
    }


def _card(plugin: type[Plugin], gateway: Gateway) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "object": "strategy",
        "kind": "orchestrator" if issubclass(plugin, Strategy) else "decoder",
        "summary": plugin.summary,
        "paper": plugin.paper,
        "parameters": plugin.Parameters.model_json_schema(),
        "needs": sorted(plugin.needs),
        "available": plugin.needs <= gateway.capabilities.names,
    }
