"""Plain requests, passed on to an upstream server as they are, and its answers passed back as they come."""

import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing

import httpx
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from server.engine.remote.faults import Fault, UpstreamError, broken, garbage, message_of, status_of, told
from server.engine.remote.replicas import SESSION, Replicas, fault_of, sendable, session_of
from server.engine.remote.sse import DONE, EVENTS, payloads, whole_events

PASSED_ON = ("content-type", "x-request-id", "x-session-id", "traceparent", "tracestate")
"""Request headers that the upstream server gets. A client's key is this gateway's business."""
PASSED_BACK = ("content-type", "retry-after")
JSON = "application/json"

logger = logging.getLogger("redraft.remote")


class Proxy:
    """Passes requests on.

    Args:
        replicas: where to.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def forward(
        self,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        model: str | None,
        deadline: float,
        *,
        streams: bool,
    ) -> Response:
        """The answer of a replica: of another one where the first fails before it has said anything.

        Args:
            path: of the route, the same there.
            headers: of the request.
            body: of the request, unread.
            model: that every replica serves and the request is for; None for a name that may well be wrong.
            deadline: monotonic seconds after which no further replica is tried.
            streams: whether an answer in pieces is asked for: any other may be silent until the deadline.

        Raises:
            UpstreamError: none answers, or what one answers is an error.
        """
        passed = {name: value for name in PASSED_ON if name in headers and sendable(value := headers[name].strip())}
        if given := headers.get(SESSION.lower()):
            passed[SESSION.lower()] = session_of(given)
        session = passed.get(SESSION.lower()) or passed.setdefault("x-request-id", "")
        async with aclosing(self._replicas.attempts(session, deadline)) as attempts:
            async for attempt in attempts:
                with attempt:
                    async with AsyncExitStack() as stack:
                        silence = None if streams else max(deadline - time.monotonic(), 1.0)
                        post = self._replicas.post(attempt, path, body, passed, model, silence)
                        response = await stack.enter_async_context(post)
                        back = {name: response.headers[name] for name in PASSED_BACK if name in response.headers}
                        kind = response.headers.get("content-type", "")
                        if kind.startswith(JSON):
                            return Response(await response.aread(), response.status_code, back)
                        if not kind.startswith(EVENTS):
                            raise garbage(f"it is {kind.partition(';')[0] or 'nothing'}")
                        events = whole_events(response.aiter_raw())
                        first = await anext(events, None)
                        if first is None:
                            raise broken("a stream without an event")
                        for payload in payloads(first)[:1]:
                            message = message_of(payload) if payload.startswith(b'{"error"') else None
                            if message and isinstance(error := told(status_of(payload), message), Fault):
                                raise error
                        return Passed(first, events, stack.pop_all(), back)
        raise AssertionError("attempts end with an answer or an error")


class Passed(StreamingResponse):
    """A stream that is passed back. Its connection closes with it, however it ends: so does the replica's work."""

    def __init__(
        self, first: bytes, events: AsyncGenerator[bytes, None], stack: AsyncExitStack, headers: Mapping[str, str]
    ) -> None:
        super().__init__(_passed(first, events), headers=headers)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stack.aclose()


async def _passed(first: bytes, events: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """Whole events; where the replica breaks off, one that says so."""
    ended = False
    data: bytes | None = first
    try:
        while data is not None:
            if not all(one.startswith((b"{", DONE)) for one in payloads(data)):
                raise garbage("an event that is no JSON")
            yield data
            ended = ended or b"data: [DONE]" in data or b"event: response.completed" in data
            data = await anext(events, None)
        if ended or b"event: " in first:
            return
        raise broken("the stream ended without an end")
    except (Fault, httpx.HTTPError) as error:
        fault = fault_of(error)
        if fault is None:
            raise
        logger.warning("a stream broke off: %s", error)
        yield error_event(fault.error, named=b"event: " in first)


def error_event(error: UpstreamError, *, named: bool) -> bytes:
    """What ends a stream that cannot go on, after which nothing more comes.

    Args:
        error: what is wrong.
        named: whether events of this stream have names, as those of /v1/responses.
    """
    if named:
        body = {"type": "error", "code": str(error.status), "message": str(error), "param": None}
        return f"event: error\ndata: {json.dumps(body)}\n\n".encode()
    envelope = {"message": str(error), "type": "UpstreamError", "param": None, "code": error.status}
    return f"data: {json.dumps({'error': envelope})}\n\ndata: [DONE]\n\n".encode()
