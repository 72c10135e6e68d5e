"""A plain `vllm serve` with redraft's plugins, small enough for two of them on a test's machine."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from clients.process import ServerProcess, free_port
from server.engine.hardware import detect, thread_binding
from tests.servers import TINY_MODEL, Metrics

KEY = "between"
ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_API_KEY": KEY,
    "VLLM_CPU_OMP_THREADS_BIND": thread_binding(detect()),
    "VLLM_LOGGING_LEVEL": "INFO",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
FLAGS = {
    "--host": "127.0.0.1",
    "--served-model-name": TINY_MODEL,
    "--dtype": "float32",
    "--block-size": "32",
    "--max-model-len": "1024",
    "--max-num-batched-tokens": "64",
    "--max-num-seqs": "16",
    "--kv-cache-memory-bytes": str(2**26),
}
SWITCHES = ("--enforce-eager", "--enable-scale-out", "--enable-prompt-tokens-details")


class Engine:
    """One server.

    Args:
        process: that runs it.
        url: where it listens.
    """

    def __init__(self, process: ServerProcess, url: str) -> None:
        self.process = process
        self.url = url

    def metrics(self) -> Metrics:
        """What /metrics says now."""
        return Metrics.parse(httpx.get(f"{self.url}/metrics", trust_env=False).raise_for_status().text)


@contextmanager
def starting_engine(model: Path) -> Iterator[Engine]:
    """An engine that was started, and is not healthy yet."""
    port = free_port()
    flags = [part for flag in FLAGS.items() for part in flag]
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(model)]
    with ServerProcess([*command, "--port", str(port), *flags, *SWITCHES], ENVIRONMENT) as process:
        yield Engine(process, f"http://127.0.0.1:{port}")
