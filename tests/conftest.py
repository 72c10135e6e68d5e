"""Fixtures of all tests."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from server.settings import Settings
from tests.engines import SHARED, running_engine, save_tiny_model
from tests.servers import DEFAULT_MODEL, TINY_MODEL, Server, running_server

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

API_KEYS = ("first-secret", "second-secret")
MAX_BODY_BYTES = 20_000
MAX_PROMPT_TOKENS = 1_800


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer model with one token a byte."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_engine(tiny_model: Path) -> "AsyncIterator[AsyncLLM]":
    """A real engine on the tiny model, which takes adapters; for tests of one event loop, that of the session."""
    async with running_engine(tiny_model, Settings(**SHARED), ["--max-lora-rank", "8"]) as running:
        yield running


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The default model, open to everybody, with vLLM's store of responses switched on."""
    flags = ["--kv-cache-gib", "0.5", "--dtype", "float32"]
    # The grammar of JSON allows any white space, and so small a model falls for it.
    grammar = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    env = {"VLLM_ENABLE_RESPONSES_API_STORE": "1"}
    with running_server([*flags, "--", *grammar], model=DEFAULT_MODEL, env=env) as running:
        yield running


@pytest.fixture(scope="module")
def guarded_server(tiny_model: Path) -> Iterator[Server]:
    """A small random model behind keys and tight limits. For one module, which may kill its engine."""
    flags = {
        "--model": tiny_model,
        "--served-model-name": TINY_MODEL,
        "--kv-cache-gib": 0.1,
        "--max-body-bytes": MAX_BODY_BYTES,
        "--max-prompt-tokens": MAX_PROMPT_TOKENS,
        "--max-concurrent-runs": 1,
        "--max-queued-runs": 1,
        "--heartbeat-seconds": 0.01,
        "--log-format": "json",
    }
    given = [str(part) for flag in flags.items() for part in flag]
    keys = [part for key in API_KEYS for part in ("--api-key", key)]
    with running_server([*given, *keys], model=TINY_MODEL, api_key=API_KEYS[0]) as running:
        yield running


def pytest_configure() -> None:
    """Gives each process of pytest-xdist, and all that it starts, cores of its own: threads of several engines on the
    same cores wait for each other.
    """
    if (worker := os.environ.get("PYTEST_XDIST_WORKER")) is not None:
        cores, workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        own = cores[int(worker.removeprefix("gw")) :: workers]
        os.sched_setaffinity(0, own or cores)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Files that start processes, which takes long, come first: what is short then fills what is left of two queues."""
    items.sort(key=lambda item: not STARTERS & vars(item.module).keys())


STARTERS = {"running_engine", "running_server", "ServerProcess", "Server", "subprocess"}
"""One of them is imported by each file that starts a process."""
