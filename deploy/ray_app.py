"""Gateways and vLLM servers as two Ray Serve applications: `serve run deploy/ray.yaml`.

A replica of either runs its server as a process of its own and passes requests on to it, so what Ray scales, restarts
and balances is exactly `redraft serve` and `vllm serve`. Needs `pip install 'redraft[ray]'`.
"""

import sys
import time
from collections.abc import AsyncIterator, Sequence

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from clients.process import ServerProcess, free_port

START_SECONDS = 1800.0
"""A large model loads for long."""
HOP_BY_HOP = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})

routes = FastAPI()


@serve.deployment
@serve.ingress(routes)
class Server:
    """One server process behind Ray's proxy.

    Args:
        command: starts the server; its port is added.
        after: URL that must answer first, None to start at once.
    """

    def __init__(self, command: Sequence[str], after: str | None = None) -> None:
        if after is not None:
            _wait_for(after)
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._process = ServerProcess([*command, "--host", "127.0.0.1", "--port", str(port)])
        self._process.__enter__()
        try:
            self._process.wait_healthy(f"{self._url}/health", START_SECONDS, lambda elapsed, line: None)
        except Exception:
            self._process.stop()
            raise
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0)
        self._client = httpx.AsyncClient(base_url=self._url, timeout=None, limits=limits, trust_env=False)

    @routes.api_route("/{path:path}", methods=["GET", "POST"])
    async def forward(self, request: Request) -> StreamingResponse:
        """The server's own answer. A client that leaves closes the connection to it, which ends its work."""
        headers = [(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP]
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        url = httpx.URL(path=path, query=request.url.query.encode())
        asked = self._client.build_request(request.method, url, headers=headers, content=await request.body())
        answer = await self._client.send(asked, stream=True)
        back = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
        return StreamingResponse(_read(answer), answer.status_code, back)

    def check_health(self) -> None:
        """Ray replaces a replica whose process has ended."""
        self._process.check()

    def __del__(self) -> None:
        """Ray drops the replica: its process ends with it."""
        self._process.stop()


async def _read(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(url, timeout=10).raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


class VLLM(BaseModel):
    """What the vLLM servers serve."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    name: str
    flags: list[str] = []
    """Of `vllm serve`, such as --tensor-parallel-size=4. Give the deployment as many GPUs, in ray.yaml."""


class Gateway(BaseModel):
    """What the gateways stand in front of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    upstream: str
    """Where Ray serves the vLLM servers."""
    model: str
    flags: list[str] = []
    """Of `redraft serve`."""


def vllm(settings: VLLM) -> Application:
    """The vLLM servers."""
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", settings.model]
    command += ["--served-model-name", settings.name, "--enable-scale-out", "--enable-prompt-tokens-details"]
    return Server.options(name="vllm").bind([*command, *settings.flags])


def redraft(settings: Gateway) -> Application:
    """The gateways. They start once a vLLM server is there."""
    command = [sys.executable, "-m", "server.cli", "serve", "--engine", "remote", "--upstream", settings.upstream]
    command += ["--model", settings.model, *settings.flags]
    return Server.options(name="redraft").bind(command, f"{settings.upstream}/health")
