"""A server that answers chat completions with as many words as it is asked for."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

app = FastAPI()
app.state.running = 0
app.state.most = 0


@app.get("/health")
def health() -> Response:
    return Response()


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    body = await request.json()
    asked = body["messages"][-1]["content"]
    if asked == "refuse":
        return JSONResponse({"error": {"message": "refused"}}, 400)
    usage = {
        "prompt_tokens": len(asked.split()),
        "completion_tokens": body["max_tokens"],
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    if body["stream"]:
        return StreamingResponse(lines(body, usage, breaks=asked == "break"), media_type="text/event-stream")
    message = {"role": "assistant", "content": "word " * body["max_tokens"]}
    if body.get("tools"):
        message |= {"tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
    return JSONResponse({"choices": [{"message": message}], "usage": usage, "strategy": {"name": "direct"}})


async def lines(body: dict[str, Any], usage: dict[str, Any], breaks: bool) -> AsyncIterator[str]:
    app.state.running += 1
    app.state.most = max(app.state.most, app.state.running)
    try:
        yield chunk(choices=[{"delta": {"role": "assistant", "content": ""}}])
        yield ": heartbeat\n\n"
        await asyncio.sleep(0.05)
        if body.get("tools"):
            for line in calls():
                yield line
        for _ in range(body["max_tokens"]):
            yield chunk(choices=[{"delta": {"content": "word "}}])
        if breaks:
            yield chunk(error={"message": "the engine died"})
            return
        yield chunk(choices=[], usage=usage)
        yield "data: [DONE]\n\n"
    finally:
        app.state.running -= 1


def calls() -> Iterator[str]:
    """A note, and two calls in pieces, as vLLM and redraft write them."""
    yield chunk(choices=[{"delta": {}}], strategy={"event": "note", "note": {"kind": "pairs", "refused": 1}})
    for index, name in enumerate(("add", "halve")):
        pieces = [
            {"function": {"name": name}},
            {"function": {"arguments": '{"n"'}},
            {"function": {"arguments": ": 1}"}},
        ]
        for piece in pieces:
            delta = {"tool_calls": [{"index": index, **piece}]}
            yield chunk(choices=[{"delta": delta}], strategy={"event": "answer", "note": None})
    yield chunk(choices=[{"delta": {}, "finish_reason": "tool_calls"}], strategy={"name": "ttsi", "note": None})


def chunk(**content: Any) -> str:
    return f"data: {json.dumps(content)}\n\n"


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def most_at_once() -> Iterator[Any]:
    """How many streams ran at the same time, at most, in this test."""
    app.state.most = 0
    yield lambda: app.state.most
