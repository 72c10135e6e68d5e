from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Scope

from server.logs import request_id
from server.middleware import AuthMiddleware, BodyLimitMiddleware, RequestIdMiddleware


async def echo(request: Request) -> PlainTextResponse:
    """The body's length, and what the application sees of the request's id."""
    size = len(await request.body())
    return PlainTextResponse(f"{size} {request.headers.get('x-request-id')} {request_id.get()}")


async def stream(request: Request) -> StreamingResponse:
    async def pieces() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    return StreamingResponse(pieces())


INNER = Starlette(
    routes=[Route("/echo", echo, methods=["GET", "POST"]), Route("/stream", stream), Route("/health", echo)]
)


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc", True),
        ("A.b-c_1", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("a b", False),
        ("é", False),
        ("", False),
    ],
)
async def test_request_ids(given: str, kept: bool) -> None:
    async with client(RequestIdMiddleware(INNER)) as http:
        response = await http.get("/echo", headers={b"X-Request-Id": given.encode()})
    identifier = response.headers["X-Request-Id"]
    assert (identifier == given) == kept
    assert response.text == f"0 {identifier} {identifier}"


async def test_two_requests_have_two_ids() -> None:
    async with client(RequestIdMiddleware(INNER)) as http:
        first, second = [(await http.get("/echo")).headers["X-Request-Id"] for _ in range(2)]
    assert first != second


async def test_each_response_has_one_id() -> None:
    async def app(scope: Scope, receive: object, send: object) -> None:
        await PlainTextResponse("", headers={"X-Request-Id": "another"})(scope, receive, send)  # type: ignore[arg-type]

    async with client(RequestIdMiddleware(app)) as http:
        response = await http.get("/echo", headers={"X-Request-Id": "mine"})
    assert response.headers.get_list("X-Request-Id") == ["mine"]


async def test_an_error_that_nobody_foresaw_has_an_id() -> None:
    async def broken(request: Request) -> PlainTextResponse:
        raise RuntimeError("broken")

    transport = httpx.ASGITransport(
        app=RequestIdMiddleware(Starlette(routes=[Route("/", broken)])), raise_app_exceptions=False
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        response = await http.get("/", headers={"X-Request-Id": "mine"})
    assert (response.status_code, response.headers["X-Request-Id"]) == (500, "mine")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer one", 200),
        ("bearer two", 200),
        ("Bearer  one", 200),
        ("Bearer three", 401),
        ("Bearer on", 401),
        ("Bearer onee", 401),
        ("Bearer", 401),
        ("Basic one", 401),
        ("one", 401),
        ("Bearer one two", 401),
        ("Bearer é", 401),
        ("Bearer schlüssel", 200),
    ],
)
async def test_keys(header: str | None, status: int) -> None:
    async with client(AuthMiddleware(INNER, ["one", "two", "schlüssel"])) as http:
        headers = {} if header is None else {b"Authorization": header.encode()}
        assert (await http.get("/echo", headers=headers)).status_code == status
        assert (await http.get("/health", headers=headers)).status_code == 200
        assert (await http.get("/health/x", headers=headers)).status_code == (404 if status == 200 else 401)


async def test_keys_of_an_application_at_a_prefix() -> None:
    inner = AuthMiddleware(INNER, ["one"])
    async with client(Starlette(routes=[Mount("/engine", inner)])) as http:
        assert (await http.get("/engine/health")).status_code == 200
        assert (await http.get("/engine/echo")).status_code == 401
        assert (await http.get("/engine/engine/health")).status_code == 401
        assert (await http.get("/engine/echo", headers={"Authorization": "Bearer one"})).status_code == 200


async def test_no_key_is_no_body_read() -> None:
    async def receive() -> Message:
        raise AssertionError("read")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/echo", "headers": []}
    await AuthMiddleware(INNER, ["one"])(scope, receive, send)
    assert sent[0]["status"] == 401


@pytest.mark.parametrize(("size", "status"), [(0, 200), (10, 200), (11, 413), (1000, 413)])
async def test_declared_bodies(size: int, status: int) -> None:
    async with client(BodyLimitMiddleware(INNER, 10)) as http:
        assert (await http.post("/echo", content=b"x" * size)).status_code == status


@pytest.mark.parametrize(("pieces", "status"), [(1, 200), (2, 200), (3, 413)])
async def test_chunked_bodies(pieces: int, status: int) -> None:
    async def content() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b"xxxxx"

    async with client(BodyLimitMiddleware(INNER, 10)) as http:
        assert (await http.post("/echo", content=content())).status_code == status


async def test_a_lie_about_the_length_does_not_help() -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"x" * 100

    async with client(BodyLimitMiddleware(INNER, 10)) as http:
        response = await http.post("/echo", content=content(), headers={"Content-Length": "5"})
    assert response.status_code == 413


async def test_streams_pass_all() -> None:
    app = RequestIdMiddleware(AuthMiddleware(BodyLimitMiddleware(INNER, 10), ["one"]))
    async with client(app) as http:
        assert (await http.get("/stream", headers={"Authorization": "Bearer one"})).text == "ab"
