"""What a gateway's replica adds to the gateway. Needs no Ray."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from deploy import ray_gateway
from deploy.ray_gateway import WithoutRequestId, ready
from server.middleware import RequestIdMiddleware

AWAY = "http://127.0.0.1:9"


@contextmanager
def engine(*statuses: int) -> Iterator[str]:
    """A server whose health has these statuses, one after the other, the last for good."""
    left = list(statuses)

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_gateway, "POLL_SECONDS", 0.01)


async def test_it_waits_until_an_engine_is_healthy() -> None:
    with engine(503, 500, 200) as url:
        await asyncio.wait_for(ready((AWAY, url), 60), 60)


async def test_it_does_not_wait_for_ever() -> None:
    with engine(503) as url, pytest.raises(RuntimeError, match=f"no upstream server was ready after 0.2 s: {url}"):
        await ready((url,), 0.2)


async def test_the_request_id_is_left_to_serve() -> None:
    async def hello(request: object) -> PlainTextResponse:
        return PlainTextResponse("hello", headers={"X-Other": "kept"})

    app = WithoutRequestId(RequestIdMiddleware(Starlette(routes=[Route("/", hello)])))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        response = await http.get("/", headers={"X-Request-Id": "mine"})
    assert response.text == "hello"
    assert "x-request-id" not in response.headers
    assert response.headers["x-other"] == "kept"
