"""A gateway in front of scripted servers, all of them on sockets of this machine."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from server.engine.remote.replicas import Replicas
from server.settings import Settings
from tests.server.engine.remote.upstream import Upstream, running, serving


@dataclass(frozen=True)
class RunningGateway:
    """A gateway, and the servers behind it."""

    url: str
    upstreams: tuple[Upstream, ...]
    replicas: Replicas

    @property
    def client(self) -> openai.AsyncOpenAI:
        """The real SDK, which never tries again."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=30)

    @property
    def http(self) -> httpx.AsyncClient:
        """Plain HTTP."""
        return httpx.AsyncClient(base_url=self.url, timeout=30)


MakeGateway = Callable[..., AbstractAsyncContextManager[RunningGateway]]


@pytest.fixture(scope="session")
def new_upstream(tiny_model: Path) -> Callable[..., Upstream]:
    """Makes a scripted server of the tiny model."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)

    def make(**changes: Any) -> Upstream:
        return Upstream(encode=tokenizer.encode, eos=tokenizer.eos_token_id, **{"root": str(tiny_model), **changes})

    return make


@pytest.fixture
def gateway(tiny_model: Path) -> MakeGateway:
    """Starts a gateway in front of servers: `async with gateway(first, second, setting=value) as running`."""

    @asynccontextmanager
    async def start(*upstreams: Upstream, **changes: Any) -> AsyncIterator[RunningGateway]:
        from server.app import create_app, with_request_ids
        from server.engine.hardware import detect
        from server.engine.remote.config import remote_arguments
        from server.engine.remote.probe import Upstream as Found
        from server.engine.remote.probe import find
        from server.models import resolve
        from server.vllm_api import remote_engine

        async with running(*upstreams):
            settings = Settings(engine="remote", upstream=tuple(one.url for one in upstreams), **changes)
            found = await find(settings)
            replicas = Replicas(settings, found.identity)
            model = resolve(str(tiny_model), served_name=found.identity.model)
            args = remote_arguments(settings, model, detect(), [], found)
            engine = remote_engine(args, replicas, found)
            app = await create_app(settings, engine, args, Found(replicas, found))
            for upstream in upstreams:
                upstream.forget()
            async with serving(with_request_ids(app)) as url:
                yield RunningGateway(url, upstreams, replicas)

    return start
