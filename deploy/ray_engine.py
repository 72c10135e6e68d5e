"""A replica of vLLM: vLLM's own application over vLLM's own engine, inside a Serve replica.

The other way, a `vllm serve` child behind a pass-through, costs every token another process and another parse of HTTP,
and its health, its port and its end would have to be looked after. What the child would serve is made here by the same
two functions of vLLM that `vllm serve` calls, so its routes, errors and streams are the same. What is left out of it is
its HTTP server, whose part Serve's proxy has: TLS, keep-alive, access log.
"""

import os
from contextlib import ExitStack
from types import SimpleNamespace

from starlette.types import ASGIApp

from deploy.ray_settings import EngineArguments
from server.engine.arguments import engine_arguments, engine_environment
from server.engine.hardware import detect
from server.middleware import AuthMiddleware
from server.models import resolve
from server.settings import Settings


class EngineReplica:
    """One engine. Its processes are children of the replica's, and end with it."""

    def __init__(self, arguments: EngineArguments) -> None:
        self._arguments = arguments
        self._stack = ExitStack()

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Starts the engine, and gives what Serve serves; the name of this method is Serve's."""
        settings = self._arguments.redraft()
        model, hardware = resolve(settings.model, served_name=settings.served_model_name), detect()
        os.environ.update(engine_environment(settings, model, hardware) | adapter_environment(settings))
        # Not before: importing vllm reads the environment.
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app

        from server.vllm_api import running_engine

        args = engine_arguments(settings, model, hardware, self._arguments.vllm_flags)
        args.enable_scale_out = True  # The routes that take and give tokens.
        self._engine = self._stack.enter_context(running_engine(args))
        tasks = await self._engine.get_supported_tasks()
        app = build_app(args, tasks, self._engine.model_config)
        await init_app_state(self._engine, app.state, args, tasks)
        app.state.server = SimpleNamespace(should_exit=False)  # vLLM's handlers tell it of an engine that died.
        key = settings.upstream_key
        return app if key is None else AuthMiddleware(app, [key.get_secret_value()])

    async def check_health(self) -> None:
        """Raises vLLM's EngineDeadError once the engine is gone: Serve then starts another replica."""
        await self._engine.check_health()

    def __del__(self) -> None:
        """Ends the engine."""
        self._stack.close()


def adapter_environment(settings: Settings) -> dict[str, str]:
    """Variables by which every replica finds an adapter that was put into the shared folder after it started."""
    if settings.adapters is None:
        return {}
    return {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_LORA_RESOLVER_CACHE_DIR": str(settings.adapters)}
