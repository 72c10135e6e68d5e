from dataclasses import replace
from typing import Any

import pytest

from benchmarks import servers
from benchmarks.peers import accuracy
from benchmarks.peers.accuracy import Answers, by_hand
from benchmarks.peers.arms import ARMS, DIRECT, Arm
from benchmarks.peers.gateways import Fleet
from benchmarks.peers.settings import quick_settings
from benchmarks.peers.true_tokens import Counters, Tokens, at_rest
from benchmarks.suites import Item, Suite, Verdict

SETTINGS = replace(quick_settings(1, "gym:gcd"), answer_tokens=3, block=2, versions={}, code="")


class Words(Suite):
    """Asks for words; those of the fake engine answer every other question."""

    def __init__(self, count: int) -> None:
        super().__init__(
            "words", [Item(str(n), [{"role": "user", "content": str(n)}], n % 2 == 0) for n in range(count)]
        )

    def judge(self, answers: Any) -> list[Verdict]:
        return [Verdict.of(one.item.reference and one.text == "word word word ", one.text) for one in answers]


@pytest.fixture
def answers(url: str, monkeypatch: pytest.MonkeyPatch) -> Answers:
    async def rested(counters: Counters) -> Tokens:
        return await at_rest(counters, quiet=0.05)

    monkeypatch.setattr(accuracy, "at_rest", rested)
    monkeypatch.setattr(Arm, "engine", "the engine")
    server: Any = type("FakeServer", (), {"counters": staticmethod(lambda: servers.counters(url))})
    return Answers(
        SETTINGS, Fleet({name: f"{url}/{name}" for name in ("honest", "broken")}, {"the engine": server}), Words(4)
    )


async def test_a_block_is_asked_judged_and_counted(answers: Answers) -> None:
    entry = await answers._block(Arm("honest", "plain", "plain"), Words(4).items)
    assert entry["judged"] == [[[True, "="]], [[False, "!word word word"]]] * 2
    assert entry["true"] == {"prompt": 40, "completion": 12}
    assert entry["reported"] == {"prompt": 40, "completion": 12}
    assert entry["errors"] == []
    assert len(entry["seconds"]) == 4


async def test_all_samples_are_judged(answers: Answers) -> None:
    arm = Arm("honest", "3 samples", "technique", more=by_hand(3).more)
    entry = await answers._block(arm, Words(1).items)
    assert entry["judged"] == [[[True, "="]] * 3]
    assert entry["true"] == {"prompt": 30, "completion": 9}


async def test_a_failure_is_kept_beside_the_answers(answers: Answers) -> None:
    entry = await answers._block(Arm("broken", "plain", "plain"), Words(2).items)
    assert entry["judged"] == [[], []]
    assert [error.startswith("status 500") for error in entry["errors"]] == [True, True]


def test_every_arm_gets_every_block(answers: Answers) -> None:
    steps = [step.key.split("/") for step in answers.steps()]
    arms = {by_hand(SETTINGS.samples).name, *(arm.name for arm in ARMS if arm.gateway != DIRECT.gateway)}
    assert {name for _, name, block in steps[: len(arms)] if block == "0000"} == arms
    assert {name for _, name, block in steps[len(arms) :] if block == "0002"} == arms
    assert len(steps) == 2 * len(arms)
