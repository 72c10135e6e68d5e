"""What holds for every request before any route: its id, its key, its size. Pure ASGI, so that streams stay streams."""

import hmac
import re
import uuid
from collections.abc import Sequence

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError
from server.logs import request_id

REQUEST_ID = "X-Request-Id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIdMiddleware:
    """Gives every request an id, the client's if it is well-formed: for the response, the logs and vLLM's own ids."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds the id to the request and to its response."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = MutableHeaders(scope=scope)
        given = headers.get(REQUEST_ID, "")
        identifier = given if _ID.fullmatch(given) else uuid.uuid4().hex
        headers[REQUEST_ID] = identifier
        request_id.set(identifier)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = identifier
            await send(message)

        await self.app(scope, receive, send_with_id)


class AuthMiddleware:
    """Asks for one of the operator's API keys on every route but /health."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets requests with a key pass."""
        if scope["type"] == "http" and not self._is_health(scope) and not self._allows(scope):
            error = ApiError(401, "a valid API key is needed: Authorization: Bearer KEY")
            return await error.response()(scope, receive, send)
        await self.app(scope, receive, send)

    def _is_health(self, scope: Scope) -> bool:
        # Where another server mounts this application at a prefix, the path has it.
        path: str = scope["path"]
        return path.removeprefix(scope.get("root_path", "")) == "/health"

    def _allows(self, scope: Scope) -> bool:
        # Bytes as they came: a key need not be ASCII.
        scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        # All keys are compared, each in constant time: neither a key's bytes nor its place leak through the clock.
        matches = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


class BodyLimitMiddleware:
    """Refuses bodies over a size with 413, declared or not, before they are held in memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._message = f"the request body is larger than {max_bytes} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets requests of a fair size pass."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = Headers(scope=scope).get("Content-Length", "0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            return await ApiError(413, self._message).response()(scope, receive, send)
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, self._message)
            return message

        await self.app(scope, bounded, send)
