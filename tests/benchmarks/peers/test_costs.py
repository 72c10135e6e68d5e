"""Costs of gateways in front of an engine that counts, over real sockets."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import servers
from benchmarks.load import LoadError
from benchmarks.peers import costs
from benchmarks.peers.arms import ARMS, EMBEDDED, GATEWAYS, Arm
from benchmarks.peers.costs import Costs
from benchmarks.peers.gateways import Fleet
from benchmarks.peers.seen_calls import SeenCalls, line
from benchmarks.peers.settings import Settings, quick_settings
from benchmarks.peers.true_tokens import Counters, Tokens, at_rest
from tests.benchmarks.peers.fake_engine import FakeEngine

SETTINGS = replace(quick_settings(1, "gym:gcd"), tokens=40, versions={}, code="")
HONEST, CARELESS, BROKEN = (Arm(name, "plain", "vote") for name in ("honest", "careless", "broken"))


class FakeServer:
    """As much of a server with an engine as costs need."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def counters(self) -> dict[str, float]:
        return await servers.counters(self._url)


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words come every 5 ms here, not every 70."""

    async def rested(counters: Counters, quiet: float = 0.3) -> Tokens:
        return await at_rest(counters, quiet)

    monkeypatch.setattr(costs, "at_rest", rested)


@pytest.fixture
def fleet(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setattr(Arm, "engine", "the engine")
    gateways = {name: f"{url}/{name}" for name in ("honest", "careless", "broken")}
    server: Any = FakeServer(url)
    yield Fleet(gateways, {"the engine": server}, {"the engine": SeenCalls(tmp_path / "calls.jsonl")})


async def measured(fleet: Fleet, kind: str, arm: Arm) -> dict[str, Any]:
    """What the measurement of one kind gives for one arm."""
    found = Costs(SETTINGS, fleet)
    measures = {"vote": found._vote, "stream": found._stream, "crowd": found._crowd, "parameters": found._parameters}
    return await measures[kind](arm, "a test")


async def test_reported_tokens_beside_true_ones(fleet: Fleet) -> None:
    assert (await measured(fleet, "vote", HONEST))["reported"] == {"prompt": 10, "completion": 40}
    careless = await measured(fleet, "vote", CARELESS)
    assert careless["reported"] == {"prompt": 0, "completion": 20}
    assert careless["true"] == {"prompt": 10, "completion": 40}


@pytest.mark.parametrize("stream", [True, False])
async def test_work_after_the_client_left(fleet: Fleet, stream: bool) -> None:
    # Long enough that a busy machine has sent the request before the client leaves.
    found = Costs(replace(SETTINGS, tokens=200), fleet)
    honest = await found._leave(stream, HONEST, "a test")
    careless = await found._leave(stream, CARELESS, "a test")
    assert honest["whole"] == careless["whole"] == 200
    # The client left before the end, so something was to be made yet; who stops makes no more than was on its way.
    assert 0 < careless["after"] <= 200
    assert honest["after"] < careless["after"]


async def test_a_stream_that_is_one(fleet: Fleet) -> None:
    honest, careless = [await measured(fleet, "stream", arm) for arm in (HONEST, CARELESS)]
    assert honest["first_byte"] / honest["seconds"] < careless["first_byte"] / careless["seconds"]


async def test_a_crowd_takes_as_long_as_all_of_it(engine: FakeEngine, fleet: Fleet) -> None:
    assert (await measured(fleet, "crowd", HONEST))["seconds"] > 0
    assert len(engine.calls) == SETTINGS.at_once
    assert len({call["messages"][0]["content"] for call in engine.calls}) == SETTINGS.at_once


@pytest.mark.parametrize("kind", ["vote", "stream", "crowd"])
async def test_a_gateway_that_fails_is_a_failure_of_the_measurement(fleet: Fleet, kind: str) -> None:
    with pytest.raises(LoadError, match="out of order"):
        await measured(fleet, kind, BROKEN)


async def test_parameters_that_reach_the_engine(
    engine: FakeEngine, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = engine.calls.append

    def note(body: dict[str, Any]) -> None:
        added(body)
        with (tmp_path / "calls.jsonl").open("a") as file:
            file.write(line(type("Params", (), body)))

    monkeypatch.setattr(engine, "calls", type("Calls", (), {"append": staticmethod(note)}))
    honest = await measured(fleet, "parameters", HONEST)
    assert set(honest["reached"].values()) == {True}
    careless = await measured(fleet, "parameters", CARELESS)
    assert [name for name, there in careless["reached"].items() if not there] == ["top_p"]
    broken = await measured(fleet, "parameters", BROKEN)
    assert set(broken["reached"].values()) == {False}
    assert broken["refused"].keys() == broken["reached"].keys()


def keys(settings: Settings) -> list[str]:
    return [step.key for step in Costs(settings, Fleet()).steps()]


def test_no_two_steps_share_a_key_and_the_order_is_the_seeds() -> None:
    first = keys(Settings(seed=1))
    assert len(first) == len(set(first))
    assert first == keys(Settings(seed=1))
    assert first != keys(Settings(seed=2))
    assert sorted(first) == sorted(keys(Settings(seed=2)))


def test_every_arm_has_its_turn_in_every_round() -> None:
    plain = [key.split("/") for key in keys(Settings(rounds=5)) if key.startswith("plain/")]
    arms = {arm.name for arm in ARMS if arm.kind == "plain"}
    assert len(arms) == len(GATEWAYS)
    for round_ in range(5):
        turn = plain[round_ * len(arms) : (round_ + 1) * len(arms)]
        assert {(name, number) for _, name, number in turn} == {(name, f"{round_:02}") for name in arms}


def test_a_smoke_test_measures_the_same_things() -> None:
    def kinds(settings: Settings) -> set[str]:
        return {key.rpartition("/")[0] for key in keys(settings)}

    assert kinds(quick_settings(1, "gym:gcd")) == kinds(Settings())


def test_only_the_embedded_redraft_has_an_engine_of_its_own() -> None:
    assert {arm.gateway for arm in ARMS if arm.engine == EMBEDDED} == {EMBEDDED}
