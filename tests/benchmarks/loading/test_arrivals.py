from collections.abc import Iterator
from statistics import mean
from typing import Any

import pytest

from benchmarks.load import client
from benchmarks.loading.arrivals import arriving, bounded, poisson, staying
from tests.benchmarks.peers.fake_engine import FakeEngine, serving


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def url(engine: FakeEngine) -> Iterator[str]:
    with serving(engine.app) as url:
        yield url


def bodies(count: int, tokens: int = 2) -> list[dict[str, Any]]:
    more = {"max_tokens": tokens, "stream": True}
    return [{"model": "m", "messages": [{"role": "user", "content": str(n)}], **more} for n in range(count)]


def test_arrivals_are_the_seeds_and_come_one_after_the_other() -> None:
    times = poisson(2.0, 50, seed=1)
    assert times == poisson(2.0, 50, seed=1)
    assert times != poisson(2.0, 50, seed=2)
    assert times == sorted(times)
    assert times[0] > 0


@pytest.mark.parametrize("rate", [0.25, 4.0])
def test_arrivals_are_as_far_apart_as_a_poisson_process_has_them(rate: float) -> None:
    times = poisson(rate, 20_000, seed=1)
    gaps = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    assert mean(gaps) == pytest.approx(1 / rate, rel=0.03)
    # The deviation of an exponential distribution is its mean.
    assert mean(gap**2 for gap in gaps) - mean(gaps) ** 2 == pytest.approx(1 / rate**2, rel=0.06)


async def test_requests_are_sent_whether_others_are_answered_or_not(engine: FakeEngine, url: str) -> None:
    async with client(f"{url}/honest") as http:
        loaded = await arriving(http, bodies(4, tokens=40), [0.0, 0.01, 0.02, 0.03])
    assert len(loaded.served) == len(engine.calls) == 4
    assert all(one.waited >= 0 for one in loaded.served)
    # One after the other they would have taken as long as all answers together.
    assert loaded.seconds < sum(one.heard.seconds for one in loaded.served)


async def test_users_ask_again_when_they_are_answered(engine: FakeEngine, url: str) -> None:
    async with client(f"{url}/honest") as http:
        loaded = await staying(http, bodies(5), users=2)
    assert [call["messages"][0]["content"] for call in engine.calls] == list("01234")
    assert len(loaded.served) == 5
    assert {one.waited for one in loaded.served} == {0.0}


async def test_failures_are_served_too(url: str) -> None:
    async with client(f"{url}/broken") as http:
        loaded = await staying(http, bodies(2), users=1)
    assert [one.heard.error[:10] for one in loaded.served] == ["status 500"] * 2


def test_nothing_is_asked_after_the_limit() -> None:
    assert len(list(bounded(60.0, bodies(3)))) == 3
    assert list(bounded(-1.0, bodies(3))) == []
