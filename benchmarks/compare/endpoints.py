"""Where arms ask: a client for each endpoint, with its key, and the counters of the engine behind it."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from benchmarks.compare.arms import Arm
from benchmarks.compare.engine import Engine
from benchmarks.compare.errors import CompareError
from benchmarks.compare.settings import Settings
from benchmarks.load import client

PATH = "/chat/completions"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address.

    Attributes:
        url: base URL, with the version in its path.
        http: its client.
        engine: what counts there.
    """

    url: str
    http: httpx.AsyncClient
    engine: Engine


def base_of(url: str) -> str:
    """A base URL as OpenAI's SDK takes it, of one with or without a path. Raises CompareError if it is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CompareError(f"{url} is no URL: http://HOST:PORT or https://HOST/PATH is wanted")
    return url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"


def metrics_of(base: str) -> str:
    """Where vLLM has its metrics: beside the last part of the path."""
    return f"{base.rsplit('/', 1)[0]}/metrics"


@asynccontextmanager
async def endpoints(settings: Settings, url: str | None) -> AsyncIterator[dict[str, Endpoint]]:
    """That of each arm, by its label.

    Args:
        settings: of the run; keys are in the variables that they name.
        url: where arms without an endpoint of their own ask.

    Raises:
        CompareError: an endpoint does not answer at all.
    """
    async with AsyncExitStack() as stack:
        found: dict[tuple[str, str | None, str], Endpoint] = {}
        by_arm = {}
        for arm in settings.arms:
            base, variable, metrics = _address(settings, arm, url)
            if (base, variable, metrics) not in found:
                http = await stack.enter_async_context(client(base, os.environ.get(variable) if variable else None))
                await _require(http, base)
                # A key is for the endpoint that it belongs to, and metrics may be at another one.
                counting = http if _same_host(base, metrics) else await stack.enter_async_context(client(metrics))
                found[base, variable, metrics] = Endpoint(base, http, Engine(counting, metrics))
            by_arm[arm.label] = found[base, variable, metrics]
        yield by_arm


def _same_host(one: str, other: str) -> bool:
    return urlsplit(one)[:2] == urlsplit(other)[:2]


def _address(settings: Settings, arm: Arm, url: str | None) -> tuple[str, str | None, str]:
    own = arm.base_url is not None
    base = base_of(arm.base_url or url or "")
    metrics = arm.metrics_url or (None if own else settings.metrics_url) or metrics_of(base)
    return base, arm.key_variable if own else settings.key_variable, metrics


async def _require(http: httpx.AsyncClient, base: str) -> None:
    try:
        response = await http.get("/models", timeout=30)
    except httpx.HTTPError as error:
        raise CompareError(f"{base} does not answer: {type(error).__name__} {error}".rstrip()) from error
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise CompareError(f"{base} wants a key: its status is {response.status_code}")
