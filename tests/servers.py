"""`redraft serve` as a process of its own, and what the tests want of it: clients, counters, log lines."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families

from clients.process import ServerProcess, free_port

START_SECONDS = 300.0
"""Some 45 seconds are usual; two cores may be shared."""

DEFAULT_MODEL = "smollm2-135m"
TINY_MODEL = "tiny"

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
PROMPT_TOKENS = "vllm:prompt_tokens_total"
GENERATION_TOKENS = "vllm:generation_tokens_total"


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    """Without /v1."""
    model: str
    api_key: str
    log: Path
    pid: int

    @property
    def client(self) -> openai.OpenAI:
        """The real SDK. It never tries again: a test wants to see the first answer."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.api_key, max_retries=0, timeout=240)

    @property
    def async_client(self) -> openai.AsyncOpenAI:
        """The same for async code; one per event loop."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.api_key, max_retries=0, timeout=240)

    @property
    def http(self) -> httpx.Client:
        """Plain HTTP with the key, for what the SDK hides: status, headers, SSE comments."""
        headers = {"Authorization": f"Bearer {self.api_key}"}
        # No TLS here, and loading its certificates for every client takes longer than many a request.
        return httpx.Client(base_url=self.url, headers=headers, timeout=240, verify=False)

    def alias(self, strategy: str) -> str:
        """The model name that picks a strategy."""
        return f"{self.model}@{strategy}"

    def metrics(self) -> "Metrics":
        """What /metrics says now."""
        with self.http as http:
            return Metrics.parse(http.get("/metrics").raise_for_status().text)

    def settled(self) -> "Metrics":
        """The counters once nothing runs and two looks at them agree."""
        before = self.metrics()
        while True:
            time.sleep(0.15)
            after = self.metrics()
            if after == before and after.total(RUNNING) + after.total(WAITING) == 0:
                return after
            before = after

    def log_lines(self) -> list[dict[str, Any]]:
        """The JSON lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"')]


@dataclass(frozen=True)
class Metrics:
    """Samples of vLLM and of strategy runs: value by name and labels."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def parse(cls, text: str) -> "Metrics":
        """Reads the text format."""
        samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith(("vllm:", "redraft_strategy_")) and not sample.name.endswith("_created")
        }
        return cls(samples)

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.samples.items() if found == name and wanted <= has)

    def names(self) -> set[str]:
        """Names of all samples."""
        return {name for name, _ in self.samples}


@dataclass(frozen=True)
class Spent:
    """Tokens that the engine counted between two looks."""

    prompt: float
    completion: float

    @classmethod
    def between(cls, before: Metrics, after: Metrics) -> "Spent":
        """What `after` has more than `before`."""
        return cls(
            after.total(PROMPT_TOKENS) - before.total(PROMPT_TOKENS),
            after.total(GENERATION_TOKENS) - before.total(GENERATION_TOKENS),
        )


@contextmanager
def running_server(
    flags: Sequence[str], *, model: str, api_key: str = "none", env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """`redraft serve` with these flags, from healthy to gone."""
    port = free_port()
    command = [sys.executable, "-m", "server.cli", "serve", "--port", str(port), *flags]
    url = f"http://127.0.0.1:{port}"
    with ServerProcess(command, env) as process:
        process.wait_healthy(f"{url}/health", START_SECONDS, lambda elapsed, line: None)
        yield Server(url, model, api_key, process.log_path, process.pid)


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Waits for a condition; says how many seconds it took. AssertionError if it does not come in time."""
    began = time.monotonic()
    while not condition():
        elapsed = time.monotonic() - began
        assert elapsed < seconds, f"not after {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began
