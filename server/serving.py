"""From settings to a listening server: prepares the model, starts the engine, says when it is ready."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import IO, TYPE_CHECKING, cast

import uvicorn
import uvloop
from fastapi import FastAPI
from rich.console import Console

from server.engine.arguments import engine_arguments, engine_environment
from server.engine.hardware import detect
from server.engine.remote.config import remote_arguments
from server.engine.remote.probe import Found, Upstream, find
from server.engine.remote.replicas import Replicas
from server.logs import LogFile, configured_logging, take_over
from server.models import ResolvedModel, resolve
from server.models.cli import show_steps
from server.models.errors import ModelError
from server.settings import Settings

if TYPE_CHECKING:
    from server.vllm_api import EngineClient

SHUTDOWN_SECONDS = 5
logger = logging.getLogger("redraft")


def serve(settings: Settings, vllm_flags: Sequence[str], console: Console) -> None:
    """Serves until it is told to stop.

    Raises:
        ValueError: a setting or a vLLM flag is wrong.
        ModelError: there is no such model.
        RuntimeError: the engine does not start.
        OSError: the address is taken.
        KeyboardInterrupt: it was told to stop before it was ready.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    with configured_logging(settings):
        if settings.log_format == "json":
            console = Console(file=cast(IO[str], LogFile()), width=10_000)
        _serve(settings, vllm_flags, console)


def _serve(settings: Settings, vllm_flags: Sequence[str], console: Console) -> None:
    listener = listen(settings)
    found = None
    if settings.engine == "remote":
        with _progress(console, f"Asking {', '.join(settings.upstream)}"):
            found = asyncio.run(find(settings))
    with show_steps(console) as on_step:
        model = resolve_model(settings, found, on_step)
    hardware = detect()
    os.environ.update(engine_environment(settings, model, hardware))
    with _progress(console, f"Loading vLLM for {model.served_name}"):
        # Not before: importing vllm reads the environment. torch first, for it logs by handlers of its own.
        import torch  # noqa: F401

        take_over()
        from server.vllm_api import raise_file_limit, remote_engine, running_engine

        raise_file_limit()
        if found is not None:
            args = remote_arguments(settings, model, hardware, vllm_flags, found)
            upstream = Upstream(Replicas(settings, found.identity), found)
            engine = remote_engine(args, upstream.replicas, found)
            return uvloop.run(_listen(settings, listener, engine, args, console, upstream))
        args = engine_arguments(settings, model, hardware, vllm_flags)
    with contextlib.ExitStack() as stack:
        # Outside of the event loop: uvloop would hold signals back until the engine is up.
        with _progress(console, f"Starting the engine: {args.dtype}, {hardware.device}, {len(hardware.cores)} cores"):
            engine = stack.enter_context(running_engine(args))
        uvloop.run(_listen(settings, listener, engine, args, console))


def resolve_model(
    settings: Settings, found: Found | None, on_step: Callable[[str], None] = lambda step: None
) -> ResolvedModel:
    """The files of the model: of the setting, or of what the upstream servers serve. Raises ModelError."""
    if found is None:
        return resolve(settings.model, served_name=settings.served_model_name, on_step=on_step)
    name = found.identity.model
    try:
        return resolve(settings.model or found.identity.root, served_name=name, on_step=on_step)
    except ModelError as error:
        hint = "; --model says where this machine has the tokenizer and configuration of the upstream servers' model"
        raise ModelError(f"{str(error).rstrip('.')}{'' if settings.model else hint}.") from error


async def _listen(
    settings: Settings,
    listener: socket.socket,
    engine: "EngineClient",
    args: argparse.Namespace,
    console: Console,
    upstream: Upstream | None = None,
) -> None:
    from server.app import create_app, with_request_ids

    app = await create_app(settings, engine, args, upstream)
    server = _Server(uvicorn.Config(with_request_ids(app), log_config=None, timeout_graceful_shutdown=SHUTDOWN_SECONDS))
    app.state.server = server  # vLLM's own error handler stops it through this.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not task.done():
        await asyncio.sleep(0.05)
    if server.started:
        announce(settings, listener, app, console)
    await task


def listen(settings: Settings) -> socket.socket:
    """Takes the port before the engine starts: a port that is taken should not cost a minute to find out."""
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); choose another --port"
        ) from error
    return listener


def announce(settings: Settings, listener: socket.socket, app: FastAPI, console: Console) -> None:
    """Says where the server is, what it serves, and how to ask it."""
    host, port = listener.getsockname()[:2]
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    gateway = app.state.gateway
    model = gateway.models()[0]
    key = " -H 'Authorization: Bearer YOUR_KEY'" if settings.api_key else ""
    body = f'{{"model": "{model}@self_refine", "messages": [{{"role": "user", "content": "What is 12 + 7?"}}]}}'
    console.print(f"[green]redraft is ready[/green] at http://{host}:{port}/v1", highlight=False)
    console.print(f"models: {', '.join(gateway.models())}; each also as MODEL@STRATEGY", highlight=False)
    console.print(f"strategies: {', '.join(gateway.strategies)}", highlight=False)
    line = f"curl http://{host}:{port}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"
    console.print(line, highlight=False, soft_wrap=True)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which ends by raising the signal again: that would kill this process
    before it has stopped the engine's, and those would live on.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `serve`."""
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _progress(console: Console, what: str) -> Iterator[None]:
    """Shows that a long step is under way, and what it took."""
    began = time.monotonic()
    if console.is_terminal:
        with console.status(f"{what} ..."):
            yield
    else:
        console.print(f"{what} ...", highlight=False)
        yield
    console.print(f"{what}: {time.monotonic() - began:.0f} s", highlight=False)
