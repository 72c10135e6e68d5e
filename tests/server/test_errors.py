from argparse import Namespace
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from server.errors import ApiError, add_error_handlers
from server.vllm_api import EngineDeadError
from strategies.base import InvalidTask


async def answer(error: Callable[[], Exception], path: str = "/", method: str = "GET") -> httpx.Response:
    """What an application says to a request whose route raises."""
    app = FastAPI(openapi_url=None)
    app.state.args = Namespace(log_error_stack=False)
    add_error_handlers(app)

    @app.get("/")
    async def route() -> None:
        raise error()

    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        return await http.request(method, path)


@pytest.mark.parametrize(
    ("error", "status", "kind", "param"),
    [
        (lambda: ApiError(400, "x", "p"), 400, "BadRequestError", "p"),
        (lambda: ApiError(401, "x"), 401, "AuthenticationError", None),
        (lambda: ApiError(404, "x", "model"), 404, "NotFoundError", "model"),
        (lambda: ApiError(413, "x"), 413, "BadRequestError", None),
        (lambda: ApiError(429, "x"), 429, "RateLimitError", None),
        (lambda: ApiError(503, "x"), 503, "ServiceUnavailableError", None),
        (lambda: ApiError(418, "x"), 418, "I'm a Teapot", None),
        (lambda: InvalidTask("x", "temperature"), 400, "BadRequestError", "temperature"),
        (lambda: HTTPException(413, "x"), 413, "BadRequestError", None),
        (lambda: RuntimeError("x"), 500, "InternalServerError", None),
        (lambda: ValueError("x"), 400, "BadRequestError", None),
    ],
)
async def test_every_error_has_one_envelope(
    error: Callable[[], Exception], status: int, kind: str, param: str | None
) -> None:
    response = await answer(error)
    assert response.status_code == status
    expected: dict[str, Any] = {"message": "x", "type": kind, "param": param, "code": status}
    assert response.json() == {"error": expected}


async def test_a_dead_engine_is_a_503() -> None:
    response = await answer(EngineDeadError)
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "ServiceUnavailableError"
    assert "restart" in response.json()["error"]["message"]


async def test_headers_are_sent() -> None:
    response = await answer(lambda: ApiError(429, "x", headers={"Retry-After": "5"}))
    assert response.headers["Retry-After"] == "5"


@pytest.mark.parametrize(("path", "method", "status"), [("/nothing", "GET", 404), ("/", "POST", 405)])
async def test_what_no_route_has(path: str, method: str, status: int) -> None:
    response = await answer(ValueError, path, method)
    assert response.status_code == status
    assert response.json()["error"]["code"] == status
