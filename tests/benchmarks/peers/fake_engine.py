"""An engine with an OpenAI API that counts its tokens as vLLM does, and gateways in front of it, good and bad."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

TOKEN_SECONDS = 0.005
PROMPT_TOKENS = 10


class FakeEngine:
    """Makes `max_tokens` words a sample, one after the other.

    Under /honest, it stops when its client leaves, streams each word, and counts well. Under /careless, it goes on
    without the client, sends all words at the end, counts half of its tokens and no prompts, and drops top_p.
    """

    def __init__(self) -> None:
        self.prompt = self.completion = self.running = 0
        self.calls: list[dict[str, Any]] = []
        self._kept: set[asyncio.Task[str]] = set()
        self.app = FastAPI()
        self.app.get("/metrics")(self.metrics)
        self.app.post("/honest/v1/chat/completions")(self.honest)
        self.app.post("/careless/v1/chat/completions")(self.careless)
        self.app.post("/broken/v1/chat/completions")(self.broken)

    def metrics(self) -> Response:
        """As Prometheus reads them."""
        lines = [
            f'vllm:prompt_tokens_total{{engine="0"}} {float(self.prompt)}',
            f'vllm:generation_tokens_total{{engine="0"}} {float(self.completion)}',
            f'vllm:num_requests_running{{engine="0"}} {float(self.running)}',
        ]
        return PlainTextResponse("\n".join(lines) + "\n")

    async def honest(self, request: Request) -> Response:
        """A gateway as one wants it."""
        body = await request.json()
        usage = {"prompt_tokens": PROMPT_TOKENS * body.get("n", 1), "completion_tokens": _made(body)}
        if body["stream"]:
            return StreamingResponse(self._lines(body, usage), media_type="text/event-stream")
        # Uvicorn does not cancel a handler whose client has left.
        work = asyncio.create_task(self._words(body))
        while not work.done():
            if await request.is_disconnected():
                work.cancel()
                return Response(status_code=499)
            await asyncio.wait([work], timeout=TOKEN_SECONDS)
        return JSONResponse(_answer(body, work.result(), usage))

    async def careless(self, request: Request) -> Response:
        """A gateway as they are."""
        body = await request.json()
        body.pop("top_p", None)
        work = asyncio.create_task(self._words(body))
        self._kept.add(work)
        work.add_done_callback(self._kept.discard)
        text = await asyncio.shield(work)
        if body["stream"]:
            return StreamingResponse(iter([_chunk(text), "data: [DONE]\n\n"]), media_type="text/event-stream")
        return JSONResponse(_answer(body, text, {"completion_tokens": _made(body) // 2}))

    def broken(self) -> Response:
        """None at all."""
        return JSONResponse({"error": "it is out of order"}, 500)

    async def _lines(self, body: dict[str, Any], usage: dict[str, int]) -> AsyncIterator[str]:
        async for word in self._each(body):
            yield _chunk(word)
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    async def _words(self, body: dict[str, Any]) -> str:
        return "".join([word async for word in self._each(body)])

    async def _each(self, body: dict[str, Any]) -> AsyncIterator[str]:
        self.calls.append(body)
        self.prompt += PROMPT_TOKENS * body.get("n", 1)
        self.running += 1
        try:
            for _ in range(body["max_tokens"]):
                await asyncio.sleep(TOKEN_SECONDS)
                self.completion += body.get("n", 1)
                yield "word "
        finally:
            self.running -= 1


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Its URL, while it listens."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def _made(body: dict[str, Any]) -> int:
    return int(body["max_tokens"] * body.get("n", 1))


def _answer(body: dict[str, Any], text: str, usage: dict[str, int]) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}} for _ in range(body.get("n", 1))], "usage": usage}


def _chunk(text: str) -> str:
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n"
