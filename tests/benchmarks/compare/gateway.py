"""An OpenAI-compatible endpoint that says what a test wants, over a real socket, with the counters of a vLLM."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse


@dataclass(frozen=True)
class Said:
    """One answer, or a refusal."""

    text: str = "The answer is 0."
    tokens: int = 10
    finish_reason: str | None = "stop"
    thoughts: tuple[tuple[str, str], ...] = ()
    """Each with its role; "note" is a note."""
    status: int = 200
    usage: bool = True
    calls: tuple[tuple[str, str], ...] = ()


@dataclass
class Gateway:
    """What the endpoint does, and what it was asked.

    Attributes:
        says: the answer to a request.
        asked: bodies of requests that were answered, in their order.
        keys: `Authorization` of all requests.
        busy: requests that it still refuses with a 429.
        counts: whether it has counters.
        hidden: tokens that the engine generates for an answer beside those that it tells.
        most: requests at the same time.
    """

    says: Callable[[Mapping[str, Any]], Said] = lambda body: Said()
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    busy: int = 0
    retry_after: str | None = "0"
    counts: bool = True
    hidden: int = 0
    running: int = 0
    most: int = 0
    url: str = ""
    counters: dict[str, int] = field(
        default_factory=lambda: {"prompt_tokens": 0, "generation_tokens": 0, "prefix_cache_hits": 0}
    )

    @property
    def app(self) -> FastAPI:
        """Its routes."""
        app = FastAPI()

        @app.get("/v1/models")
        def models(request: Request) -> dict[str, Any]:
            self.keys.append(request.headers.get("authorization"))
            return {"object": "list", "data": []}

        @app.get("/metrics")
        def metrics() -> Response:
            if not self.counts:
                return Response(status_code=404)
            lines = [f'vllm:{name}_total{{engine="0"}} {value}.0' for name, value in self.counters.items()]
            return PlainTextResponse("\n".join([*lines, f"vllm:num_requests_running {self.running}.0"]) + "\n")

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            self.keys.append(request.headers.get("authorization"))
            if self.busy:
                self.busy -= 1
                headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
                return JSONResponse({"error": {"message": "busy"}}, 429, headers)
            body = await request.json()
            said = self.says(body)
            self.asked.append(body)
            if said.status != 200:
                return JSONResponse({"error": {"message": "refused"}}, said.status)
            return StreamingResponse(self._lines(said, len(body["messages"][0]["content"].split())))

        return app

    async def _lines(self, said: Said, prompt: int) -> AsyncIterator[str]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.01)
            for line in _spoken(said):
                yield line
        finally:
            self.running -= 1
        self.counters["prompt_tokens"] += prompt
        self.counters["generation_tokens"] += said.tokens + self.hidden
        self.counters["prefix_cache_hits"] += 1
        if said.finish_reason is not None:
            yield _chunk({}, said.finish_reason)
        if said.usage:
            details = {"prompt_tokens_details": {"cached_tokens": 1}}
            usage = {"prompt_tokens": prompt, "completion_tokens": said.tokens, **details}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


def _spoken(said: Said) -> Iterator[str]:
    for role, text in said.thoughts:
        event = "note" if role == "note" else "thought"
        note = {"kind": text} if event == "note" else None
        beside = {"event": event, "branch": 0, "role": "attempt" if event == "note" else role, "note": note}
        yield _chunk({} if event == "note" else {"reasoning": text}, strategy=beside)
    yield _chunk({"content": said.text})
    for index, (name, arguments) in enumerate(said.calls):
        yield _chunk({"tool_calls": [{"index": index, "function": {"name": name, "arguments": arguments}}]})


def _chunk(delta: Mapping[str, Any], finish_reason: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n"


@contextmanager
def listening() -> Iterator[Gateway]:
    """A gateway at a port of its own."""
    gateway = Gateway()
    server = uvicorn.Server(uvicorn.Config(gateway.app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    gateway.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield gateway
    server.should_exit = True
    thread.join(10)
