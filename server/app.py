"""The FastAPI application over a running engine."""

import argparse
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from server.engine.remote.probe import Upstream
from server.engine.remote.proxy import Proxy
from server.errors import add_error_handlers
from server.gateway import Gateway
from server.limits import RunLimiter
from server.middleware import AuthMiddleware, BodyLimitMiddleware, RequestIdMiddleware
from server.routes import chat, common, listing, plain, proxied, responses
from server.settings import Settings
from server.teacher import Teacher
from server.training import Trainer, TrainerCommand
from server.vllm_api import Adapters, EngineClient, Services, attach_metrics, lifespan, list_adapters, mount_state
from strategies.registry import load_strategies


async def create_app(
    settings: Settings, engine: EngineClient, args: argparse.Namespace, upstream: Upstream | None = None
) -> FastAPI:
    """Mounts the gateway and vLLM's serving classes over an engine.

    Args:
        settings: the operator's settings.
        engine: vLLM's running engine.
        args: the vLLM arguments that the engine was started with.
        upstream: the servers that a remote engine is.

    Raises:
        RuntimeError: an installed strategy plugin is broken.
    """
    app = FastAPI(title="redraft", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan)
    await mount_state(engine, app.state, args)
    limiter = RunLimiter(settings.max_concurrent_runs, settings.max_queued_runs)
    services = _services(settings, engine, args, upstream)
    proxy = None
    if upstream is not None:
        list_adapters(app.state, upstream.found.adapters)
        proxy = Proxy(upstream.replicas)
    app.state.gateway = Gateway(settings, load_strategies(), limiter, app.state, services, proxy)
    for routes in (common, listing, *((chat, responses, plain) if upstream is None else (proxied,))):
        app.include_router(routes.router)
    attach_metrics(app)
    add_error_handlers(app)
    # The last one added is the outermost. A browser asks for leave without a key.
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes)
    if settings.api_key:
        app.add_middleware(AuthMiddleware, keys=[key.get_secret_value() for key in settings.api_key])
    app.add_middleware(CORSMiddleware, allow_origins=settings.allowed_origin, allow_methods=["*"], allow_headers=["*"])
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with lifespan(app), app.state.gateway.services:
        yield


def _services(
    settings: Settings, engine: EngineClient, args: argparse.Namespace, upstream: Upstream | None
) -> Services:
    """What the operator wants beside the engine. Raises RuntimeError if it cannot be had."""
    adapters = teacher = None
    if settings.training:
        if find_spec("peft") is None:
            raise RuntimeError("--training needs peft: pip install 'redraft[trainer]'")
        scratch = Path(tempfile.mkdtemp(prefix="redraft-adapters-"))
        command = TrainerCommand.of(settings, engine, scratch)
        trainer = Trainer(command, settings.max_queued_trainings, settings.training_seconds)
        adapters = Adapters(engine, trainer, scratch, args.max_loras, settings.kept_adapters_mib * 2**20)
    if settings.teacher_url is not None and settings.teacher_model is not None:
        key = settings.teacher_key.get_secret_value()
        teacher = Teacher(settings.teacher_url, settings.teacher_model, key, settings.teacher_calls)
    return Services(adapters, teacher, None if upstream is None else upstream.replicas)


def with_request_ids(app: FastAPI) -> ASGIApp:
    """The application as it is served: around all of it, errors that nobody foresaw too, every request has an id."""
    return RequestIdMiddleware(app)
