"""A server that speaks vLLM's routes as vLLM does, with vLLM's own classes, and fails as a test wants it to."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

Trouble = Literal[
    "refuse",
    "overloaded",
    "hang",
    "garbage",
    "die",
    "no_end",
    "error_event",
    "bad_request",
    "no_route",
    "unworded",
    "dead_engine",
]
"""refuse: 503; overloaded: 429 with Retry-After; hang: nothing comes; garbage: no JSON; die: the connection breaks off;
no_end: the stream ends without its end; error_event: an error within the stream; bad_request: a 400; no_route,
unworded: a 404 and a 422 in other words than OpenAI's; dead_engine: as vLLM's server says it."""
HANG_SECONDS = 60.0


@dataclass
class Upstream:
    """What one server does, and what it was asked."""

    encode: Callable[[str], list[int]]
    """The model's tokenizer."""
    eos: int
    text: str = "it is nineteen"
    model: str = "tiny"
    root: str = "tiny"
    max_model_len: int = 1024
    adapters: list[str] = field(default_factory=list)
    scale_out: bool = True
    processor: bool = True
    """Whether it has redraft's logits processor."""
    cache_counts: bool = True
    chat_logprobs: bool = True
    key: str | None = None
    trouble: Trouble | None = None
    after: int = 0
    """Tokens, or events, before the trouble."""
    pause: float = 0.0
    """Seconds between tokens."""
    seen: list[dict[str, Any]] = field(default_factory=list)
    """Bodies and headers of calls, those of the probe left out by `forget`."""
    gone: int = 0
    """Calls whose client left."""
    told_to_abort: list[str] = field(default_factory=list)
    url: str = ""

    def forget(self) -> None:
        self.seen.clear()

    def sessions(self) -> set[str]:
        return {one["headers"].get("x-session-id", "") for one in self.seen}

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def keyed(request: Request, go_on: Any) -> Response:
            keyless = self.key is None or request.url.path == "/health"
            if not keyless and request.headers.get("authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": "Unauthorized"}, 401)
            answer: Response = await go_on(request)
            return answer

        app.add_api_route("/v1/models", self._models)
        app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"], response_model=None)
        app.add_api_route("/v1/load_lora_adapter", self._load, methods=["POST"], response_model=None)
        app.add_api_route("/inference/v1/generate", self._generate, methods=["POST"], response_model=None)
        app.add_api_route("/inference/v1/abort_requests", self._abort, methods=["POST"], response_model=None)
        return app

    async def _models(self) -> dict[str, Any]:
        base = {"id": self.model, "root": self.root, "parent": None, "max_model_len": self.max_model_len}
        return {"data": [base, *({"id": name, "root": name, "parent": self.model} for name in self.adapters)]}

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        if "lora_name" not in body:
            return _error(400, "lora_name is missing")
        if body["lora_name"] in self.adapters:
            return _error(400, f"The lora adapter '{body['lora_name']}' has already been loaded.")
        self.adapters.append(body["lora_name"])
        return Response("Success")

    async def _abort(self, request: Request) -> Response:
        self.told_to_abort += (await request.json())["request_ids"]
        return Response()

    async def _before(self, request: Request) -> Response | None:
        port = request.client.port if request.client is not None else 0
        self.seen.append({"body": await request.json(), "headers": dict(request.headers), "port": port})
        if self.trouble == "refuse":
            return _error(503, "The engine is currently busy")
        if self.trouble == "overloaded":
            return _error(429, "too many requests", {"Retry-After": "7"})
        if self.trouble == "bad_request":
            return _error(400, "temperature must be non-negative")
        if self.trouble == "no_route":
            return JSONResponse({"detail": "Not Found"}, 404)
        if self.trouble == "unworded":
            return JSONResponse({"object": "error", "message": "temperature"}, 422)
        if self.trouble == "dead_engine":
            return _error(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")
        if self.trouble == "hang" and self.after == 0:
            leaving: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
            done, _ = await asyncio.wait([leaving], timeout=HANG_SECONDS)
            self.gone += bool(done)
            leaving.cancel()
        if self.trouble == "garbage" and self.after == 0:
            return Response("<html>oops</html>", media_type="text/html")
        return None

    async def _generate(self, request: Request) -> Response:
        from vllm.entrypoints.scale_out.token_in_token_out.protocol import (
            GenerateRequest,
            GenerateTokensChoice,
            GenerateTokensResponse,
        )

        if not self.scale_out:
            return _error(403, "Scale-out endpoints are disabled.")
        if (early := await self._before(request)) is not None:
            return early
        call = GenerateRequest.model_validate(self.seen[-1]["body"])
        if call.model not in (self.model, *self.adapters):
            return _error(404, f"The model `{call.model}` does not exist.")
        if self.processor and (call.sampling_params.extra_args or {}).get("srgen") == "?":
            return _error(400, "srgen: Invalid JSON")
        tokens, reason = self._tokens(call.sampling_params.max_tokens or 0)
        if call.stream:
            return StreamingResponse(self._stream(call, tokens, reason), media_type="text/event-stream")
        choice = GenerateTokensChoice(
            index=0, token_ids=tokens, finish_reason=reason, logprobs=_logprobs(call.sampling_params, tokens)
        )
        response = GenerateTokensResponse(choices=[choice], usage=self._usage(call, tokens))
        return JSONResponse(response.model_dump())

    def _tokens(self, most: int) -> tuple[list[int], str]:
        tokens = [*self.encode(self.text), self.eos]
        return tokens[:most], "stop" if len(tokens) <= most else "length"

    def _usage(self, call: Any, tokens: Sequence[int]) -> Any:
        from vllm.entrypoints.serve.engine.protocol import PromptTokenUsageInfo, UsageInfo

        prompt = len(call.token_ids)
        usage = UsageInfo(prompt_tokens=prompt, completion_tokens=len(tokens), total_tokens=prompt + len(tokens))
        if self.cache_counts:
            usage.prompt_tokens_details = PromptTokenUsageInfo(cached_tokens=prompt // 2)
        return usage

    async def _stream(self, call: Any, tokens: Sequence[int], reason: str) -> AsyncIterator[str]:
        from vllm.entrypoints.scale_out.token_in_token_out.protocol import (
            GenerateTokensStreamChoice,
            GenerateTokensStreamResponse,
        )

        try:
            for number, token in enumerate(tokens):
                async for event in self._trouble(number):
                    if event is None:
                        return
                    yield event
                choice = GenerateTokensStreamChoice(
                    index=0,
                    token_ids=[token],
                    logprobs=_logprobs(call.sampling_params, [token]),
                    finish_reason=reason if number == len(tokens) - 1 else None,
                )
                yield f"data: {GenerateTokensStreamResponse(choices=[choice]).model_dump_json()}\n\n"
                await asyncio.sleep(self.pause)
        except asyncio.CancelledError:
            self.gone += 1
            raise
        usage = GenerateTokensStreamResponse(choices=[], usage=self._usage(call, tokens))
        yield f"data: {usage.model_dump_json(exclude_none=True)}\n\ndata: [DONE]\n\n"

    async def _chat(self, request: Request) -> Response:
        if (early := await self._before(request)) is not None:
            return early
        body = self.seen[-1]["body"]
        if body["model"] not in (self.model, *self.adapters):
            return _error(404, f"The model `{body['model']}` does not exist.")
        if body.get("stream"):
            return StreamingResponse(self._chat_stream(body), media_type="text/event-stream")
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": self._chat_logprobs(body, "it")}
        return JSONResponse(
            {"id": "c", "object": "chat.completion", "created": 0, "model": self.model, "choices": [choice]}
        )

    def _chat_logprobs(self, body: Any, word: str) -> dict[str, Any] | None:
        entry = {"token": word, "logprob": -0.25}
        return (
            {"content": [{**entry, "top_logprobs": [entry]}]} if body.get("logprobs") and self.chat_logprobs else None
        )

    async def _chat_stream(self, body: Any) -> AsyncIterator[str]:
        try:
            for number, word in enumerate(self.text.split()):
                async for event in self._trouble(number):
                    if event is None:
                        return
                    yield event
                choice = {"index": 0, "delta": {"content": f"{word} "}, "logprobs": self._chat_logprobs(body, word)}
                chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": self.model}
                yield f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"
                await asyncio.sleep(self.pause)
            if body.get("stream_options"):
                last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
                usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}
                yield f"data: {json.dumps(last)}\n\ndata: {json.dumps(usage)}\n\n"
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.gone += 1
            raise

    async def _trouble(self, number: int) -> AsyncIterator[str | None]:
        """What goes wrong before an event; None ends the stream."""
        if self.trouble is None or number < self.after:
            return
        if self.trouble == "die":
            yield 'data: {"choices": [{"ind'
            raise RuntimeError("the server dies here, as the test wants it")
        if self.trouble == "no_end":
            yield None
        if self.trouble == "hang":
            await asyncio.sleep(HANG_SECONDS)
        if self.trouble == "garbage":
            yield "data: <html>\n\n"
        if self.trouble == "error_event":
            error = {"message": "the engine failed on it", "type": "InternalServerError", "code": 500}
            yield f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n"
            yield None


def _logprobs(params: Any, tokens: Sequence[int]) -> Any:
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import (
        GenerateLogProb,
        GenerateLogProbs,
        GenerateLogProbsContent,
    )

    if params.logprobs is None:
        return None
    others = [GenerateLogProb(token_id=100 + i, logprob=-2.0 - i, rank=2 + i) for i in range(params.logprobs)]
    content = [
        GenerateLogProbsContent(
            token_id=token,
            logprob=-0.5,
            rank=1,
            top_logprobs=[GenerateLogProb(token_id=token, logprob=-0.5, rank=1), *others][: max(params.logprobs, 1)],
        )
        for token in tokens
    ]
    return GenerateLogProbs(content=content)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    body = {"error": {"message": message, "type": "Error", "param": None, "code": status}}
    return JSONResponse(body, status, headers)


@asynccontextmanager
async def serving(app: Any, port: int = 0) -> AsyncIterator[str]:
    """An application on a socket of this machine, in this event loop; its base URL."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def running(*upstreams: Upstream) -> AsyncIterator[None]:
    """Servers, whose `url` then says where they are."""
    if not upstreams:
        yield
        return
    first, *rest = upstreams
    async with serving(first.app(), int(first.url.rpartition(":")[2] or 0) if first.url else 0) as url:
        first.url = url
        async with running(*rest):
            yield
