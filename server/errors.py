"""Errors as the OpenAI API words them: {"error": {"message", "type", "param", "code"}}."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from server.engine.remote.faults import RETRY_AFTER, UpstreamError
from server.vllm_api import CallFailed, EngineDeadError, add_vllm_error_handlers
from strategies.base import InvalidTask

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    413: "BadRequestError",
    429: "RateLimitError",
    500: "InternalServerError",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
}


class ApiError(Exception):
    """An answer with an error status.

    Args:
        status: the HTTP status.
        message: what is wrong and what would be right.
        param: the request's parameter that is at fault.
        headers: further response headers.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """The envelope."""
        kind = _TYPES.get(self.status, HTTPStatus(self.status).phrase)
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.status}}

    def response(self) -> JSONResponse:
        """The HTTP response."""
        return JSONResponse(self.body(), self.status, self.headers)


class StrategyFailed(Exception):
    """A strategy's own fault, not the request's. The log has the cause; clients are not told what a plugin says."""


def engine_died() -> ApiError:
    """What every request gets once the engine is dead."""
    return ApiError(503, "the engine has died; restart the server")


def add_error_handlers(app: FastAPI) -> None:
    """Every error of the gateway, of a strategy and of vLLM in one envelope."""
    add_vllm_error_handlers(app)

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(InvalidTask)
    async def invalid_task(request: Request, error: InvalidTask) -> JSONResponse:
        return ApiError(400, str(error), error.param).response()

    @app.exception_handler(StrategyFailed)
    async def strategy_failed(request: Request, error: StrategyFailed) -> JSONResponse:
        return ApiError(500, str(error)).response()

    @app.exception_handler(UpstreamError)
    @app.exception_handler(CallFailed)
    async def upstream_error(request: Request, error: UpstreamError | CallFailed) -> JSONResponse:
        headers = None if error.retry_after is None else {RETRY_AFTER: error.retry_after}
        return ApiError(error.status, str(error), headers=headers).response()

    # fastapi's own for what a route refuses, starlette's for paths and methods that no route has.
    @app.exception_handler(HTTPException)
    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return ApiError(error.status_code, error.detail, headers=error.headers).response()

    @app.exception_handler(EngineDeadError)
    async def engine_dead(request: Request, error: EngineDeadError) -> JSONResponse:
        return engine_died().response()
