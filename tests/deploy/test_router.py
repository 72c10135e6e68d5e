"""gateway -> vllm-router -> two `vllm serve`, with the flags of the compose file: `make test-deploy`."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from clients.process import ServerProcess, free_port
from deploy.router import VARIABLE
from tests.deploy.engines import KEY, Engine, starting_engine
from tests.deploy.files import services
from tests.servers import GENERATION_TOKENS, START_SECONDS, TINY_MODEL, Server, running_server, wait_until

pytest.importorskip("vllm_router", reason="make test-deploy installs it")
QUESTION: list[Any] = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True)
class Deployment:
    """All that runs."""

    gateway: Server
    engines: list[Engine]

    def generated(self) -> list[float]:
        """Tokens that each engine has made so far."""
        return [engine.metrics().total(GENERATION_TOKENS) for engine in self.engines]

    def since(self, before: list[float]) -> list[float]:
        """Tokens that each engine has made since then."""
        return [now - one for now, one in zip(self.generated(), before, strict=True)]


@pytest.fixture(scope="module")
def deployment(tiny_model: Path) -> Iterator[Deployment]:
    with ExitStack() as stack:
        engines = [stack.enter_context(starting_engine(tiny_model)) for _ in range(2)]
        for engine in engines:
            engine.process.wait_healthy(f"{engine.url}/health", START_SECONDS, lambda elapsed, line: None)
        router = stack.enter_context(running_router([engine.url for engine in engines]))
        flags = ["--engine", "remote", "--upstream", router, "--model", str(tiny_model)]
        env = {VARIABLE: KEY}
        yield Deployment(stack.enter_context(running_server(flags, model=TINY_MODEL, env=env)), engines)


@contextmanager
def running_router(urls: list[str]) -> Iterator[str]:
    """The router of the compose file, in front of these engines."""
    port = free_port()
    flags = [flag for flag in services()["router"]["command"] if not flag.startswith(("--host", "--port", "http:"))]
    flags.remove("--worker-urls")
    flags += ["--host=127.0.0.1", f"--port={port}", f"--prometheus-port={free_port()}", "--worker-urls", *urls]
    with ServerProcess([sys.executable, "-m", "deploy.router", *flags], {VARIABLE: KEY}) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_healthy(f"{url}/health", START_SECONDS, lambda elapsed, line: None)
        yield url


def test_every_capability_is_found_through_the_router(deployment: Deployment) -> None:
    with deployment.gateway.http as http:
        listed = http.get("/v1/strategies").json()["data"]
    assert {one["name"] for one in listed if one["available"]} >= {"self_refine", "revise", "srgen", "self_consistency"}


def test_plain_requests_and_streams(deployment: Deployment) -> None:
    client = deployment.gateway.client
    whole = client.chat.completions.create(model=TINY_MODEL, messages=QUESTION, max_tokens=8, temperature=0)
    stream = client.chat.completions.create(
        model=TINY_MODEL, messages=QUESTION, max_tokens=8, temperature=0, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.choices[0].message.content
    assert client.responses.create(model=TINY_MODEL, input="hello", max_output_tokens=4).usage is not None


@pytest.mark.parametrize("strategy", ["self_consistency", "self_refine"])
def test_the_calls_of_a_request_stay_on_one_engine(deployment: Deployment, strategy: str) -> None:
    for seed in range(6):
        before = deployment.generated()
        answer = deployment.gateway.client.chat.completions.create(
            model=deployment.gateway.alias(strategy), messages=QUESTION, max_tokens=8, temperature=1, seed=seed
        )
        assert answer.usage is not None
        tokens = answer.usage.completion_tokens
        wait_until(lambda before=before, tokens=tokens: sum(deployment.since(before)) >= tokens, 10)  # type: ignore[misc]
        assert sorted(deployment.since(before)) == [0, tokens]


def test_a_killed_engine_costs_only_what_it_was_telling(deployment: Deployment) -> None:
    """Last in this file: an engine is gone after it."""
    killed = threading.Event()

    def ask(number: int) -> str:
        late = killed.is_set()
        try:
            stream = deployment.gateway.client.chat.completions.create(
                model=TINY_MODEL,
                messages=[{"role": "user", "content": f"hello {number}"}],
                max_tokens=60,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            reasons = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
        except openai.APIError as error:
            return f"{'late' if late else 'under way'}: {error}"
        return str(reasons[-1])

    with ThreadPoolExecutor(6) as pool:
        asked = []
        for number in range(40):
            asked.append(pool.submit(ask, number))
            if number == 10:
                asked[4].result()
                os.killpg(deployment.engines[0].process.pid, signal.SIGKILL)
                killed.set()
    results = [one.result() for one in asked]
    assert results.count("length") >= 40 - 6, results
    assert not [result for result in results if result.startswith("late")], results
