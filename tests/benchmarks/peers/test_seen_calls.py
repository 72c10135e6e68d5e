import json
from pathlib import Path
from typing import Any

import pytest
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from benchmarks.peers import seen_calls
from benchmarks.peers.requests import PARAMETERS
from benchmarks.peers.seen_calls import SeenCalls, line, reached


def as_vllm_has_them() -> SamplingParams:
    """As its server makes them from a request, whose keys are text."""
    bias = {int(token): value for token, value in PARAMETERS["logit_bias"].items()}
    return SamplingParams(**{**PARAMETERS, "logit_bias": bias})


def test_everything_that_is_sent_is_seen_in_vllms_own_parameters() -> None:
    call = json.loads(line(as_vllm_has_them()))
    assert [name for name, value in PARAMETERS.items() if not reached(value, name, [call])] == []


def test_nothing_is_seen_in_vllms_defaults() -> None:
    call = json.loads(line(SamplingParams()))
    assert [name for name, value in PARAMETERS.items() if reached(value, name, [call])] == []


def test_every_call_must_have_a_parameter() -> None:
    calls = [{"top_p": 0.5, "seed": 1}, {"top_p": 1.0, "seed": 2}]
    assert not reached(0.5, "top_p", calls)
    assert reached(0.5, "top_p", calls[:1])
    assert not reached(0.5, "top_p", [])


def test_a_seed_of_its_own_for_each_branch_is_what_was_asked_for() -> None:
    assert reached(7, "seed", [{"seed": 7}, {"seed": 991}])
    assert not reached(7, "seed", [{"seed": 7}, {"seed": None}])


async def test_the_plugin_notes_what_the_engine_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = SeenCalls(tmp_path / "calls.jsonl")
    assert seen.new() == []
    got: list[tuple[Any, ...]] = []

    async def add_request(self: Any, *arguments: Any, **options: Any) -> str:
        got.append((*arguments, options))
        return "queue"

    monkeypatch.setattr(AsyncLLM, "add_request", add_request)
    for name, value in seen.variables.items():
        monkeypatch.setenv(name, value)
    seen_calls.register()
    engine: Any = AsyncLLM.__new__(AsyncLLM)
    params = as_vllm_has_them()
    assert await engine.add_request("one", "prompt", params, priority=1) == "queue"
    assert got == [("one", "prompt", params, {"priority": 1})]
    (call,) = seen.new()
    assert (call["top_k"], call["n"]) == (23, 1)
    assert seen.new() == []
