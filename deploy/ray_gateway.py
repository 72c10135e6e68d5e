"""A replica of the gateway: the application of `redraft serve --engine remote`, inside a Serve replica."""

import asyncio
import os
import time
from contextlib import suppress
from types import SimpleNamespace

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.ray_settings import GatewayArguments
from server.engine.arguments import engine_environment
from server.engine.hardware import detect
from server.engine.remote.probe import Upstream, find
from server.engine.remote.replicas import Replicas
from server.middleware import REQUEST_ID
from server.serving import resolve_model

POLL_SECONDS = 2.0


class GatewayReplica:
    """One gateway. It keeps nothing that another one would miss."""

    def __init__(self, arguments: GatewayArguments) -> None:
        self._arguments = arguments

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Waits for an engine, and gives what Serve serves; the name of this method is Serve's."""
        arguments, settings = self._arguments, self._arguments.redraft()
        await ready(settings.upstream, arguments.ready_seconds)
        found = await find(settings)
        model, hardware = resolve_model(settings, found), detect()
        os.environ.update(engine_environment(settings, model, hardware))
        # Not before: importing vllm reads the environment.
        from server.app import create_app, with_request_ids
        from server.engine.remote.config import remote_arguments
        from server.vllm_api import remote_engine

        args = remote_arguments(settings, model, hardware, arguments.vllm_flags, found)
        upstream = Upstream(Replicas(settings, found.identity), found)
        engine = remote_engine(args, upstream.replicas, found)
        app = await create_app(settings, engine, args, upstream)
        app.state.server = SimpleNamespace(should_exit=False)
        return WithoutRequestId(with_request_ids(app))


class WithoutRequestId:
    """Leaves the request's id out of the response: Serve adds the same one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything else on."""
        name = REQUEST_ID.lower().encode()

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [header for header in message["headers"] if header[0].lower() != name]
            await send(message)

        await self.app(scope, receive, send_without_id)


async def ready(upstream: tuple[str, ...], seconds: float) -> None:
    """Waits until one of the servers is healthy: engines and gateways start together, and engines take longer.

    Raises:
        RuntimeError: none was in time.
    """
    deadline = time.monotonic() + seconds
    async with httpx.AsyncClient(trust_env=False) as http:
        while time.monotonic() < deadline:
            for url in upstream:
                with suppress(httpx.HTTPError):
                    if (await http.get(f"{url}/health")).status_code == httpx.codes.OK:
                        return
            await asyncio.sleep(POLL_SECONDS)
    raise RuntimeError(f"no upstream server was ready after {seconds:g} s: {', '.join(upstream)}")
