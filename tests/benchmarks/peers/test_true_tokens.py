from collections.abc import Mapping

import pytest

from benchmarks.peers import true_tokens
from benchmarks.peers.true_tokens import Counters, StillBusyError, Tokens, at_rest


def counted(*readings: tuple[int, int, int]) -> Counters:
    """Prompt and generated tokens and running requests, reading by reading; the last one stays."""
    left = list(readings)

    async def read() -> Mapping[str, float]:
        prompt, made, running = left.pop(0) if len(left) > 1 else left[0]
        return {
            "vllm:prompt_tokens_total": float(prompt),
            "vllm:generation_tokens_total": float(made),
            "vllm:num_requests_running": float(running),
        }

    return read


async def test_an_engine_rests_when_nothing_changes_and_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(true_tokens, "STEP_SECONDS", 0.001)
    readings = [(10, 0, 1), (10, 5, 1), (10, 5, 1), (10, 5, 1), (20, 9, 0)]
    assert await at_rest(counted(*readings), quiet=0.02) == Tokens(20, 9)


async def test_one_that_goes_on_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(true_tokens, "STEP_SECONDS", 0.001)
    monkeypatch.setattr(true_tokens, "LONGEST_SECONDS", 0.05)
    with pytest.raises(StillBusyError):
        await at_rest(counted((1, 1, 1)), quiet=0.02)


def test_tokens_since_then() -> None:
    assert Tokens(30, 17).since(Tokens(10, 2)) == {"prompt": 20, "completion": 15}


def test_an_engine_that_did_nothing_yet_has_no_counters() -> None:
    assert Tokens.of({}) == Tokens(0, 0)
