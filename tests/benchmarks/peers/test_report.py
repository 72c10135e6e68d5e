from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.journal import Journal
from benchmarks.peers.__main__ import _steps
from benchmarks.peers.arms import ITS_HUB, REMOTE
from benchmarks.peers.gateways import Fleet
from benchmarks.peers.report import PeersReport
from benchmarks.peers.requests import PARAMETERS
from benchmarks.peers.settings import Settings
from benchmarks.suites import Item, Suite

SETTINGS = replace(Settings(), items=4, block=2, samples=2, versions={}, code="")


class Four(Suite):
    """Items that nobody asks."""

    def __init__(self) -> None:
        super().__init__("four", [Item(str(n), [], None) for n in range(4)])

    def judge(self, answers: Any) -> Any:
        raise NotImplementedError


def measured(kind: str, arm: str) -> Mapping[str, Any]:
    """What a step could have measured: gateways of others twice as slow, and without care."""
    other = arm.startswith("OptiLLM")
    seconds = 2.0 if other else 1.0
    if kind in ("plain", "crowd"):
        return {"seconds": seconds}
    if kind == "vote":
        told = {"prompt": 0 if other else 50, "completion": 160}
        return {"seconds": 4 * seconds, "reported": told, "true": {"prompt": 250, "completion": 160}}
    if kind == "stream":
        return {"seconds": 2.0, "first_byte": 1.9 if other else 0.1, "first_text": None if other else 0.1}
    if kind.startswith("leave"):
        return {"whole": 160, "after": 120 if other else 0}
    if kind == "parameters":
        return {"reached": dict.fromkeys(PARAMETERS, not other), "refused": {}}
    answers = [[True, "right"], [False, "7"]] if "samples" in arm else [[True, "right"]]
    tokens = {"prompt": 200, "completion": 100}
    return {"judged": [answers] * 2, "errors": [], "seconds": [1.0] * 2, "reported": tokens, "true": tokens}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """All but its_hub, which is not there, and one arm that fails in one round."""
    journal = Journal(tmp_path / "peers.json", asdict(SETTINGS))
    for half in ("costs", "answers"):
        for step in _steps(half, SETTINGS, Fleet(), Four()):
            if step.arm.gateway not in (ITS_HUB, REMOTE):
                kind, arm, _ = step.key.split("/")
                journal.entries[step.key] = measured(kind, arm)
    journal.entries["vote/OptiLLM: majority_voting/01"] = {"error": "status 500: it is\nout of order"}
    journal.facts = {
        "sessions": 1,
        "date": "2026-01-01",
        "command": "python -m benchmarks.peers",
        "machine": {"processor": "a fast one"},
        "commands": {"vllm serve": "vllm serve --model m"},
        "failed": {ITS_HUB: "pip cannot install its_hub: no such version", REMOTE: "not built yet"},
        "differences": [],
    }
    journal.complete = True
    return journal


def row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_table_has_a_number_or_a_reason_for_each_gateway(journal: Journal, tmp_path: Path) -> None:
    text = PeersReport(journal).write(tmp_path).read_text()
    hub, remote = "pip cannot install its_hub: no such version", "not built yet"
    one = "1.00 [1.00, 1.00]"
    assert row(text, "one plain request, seconds over a direct one") == [one, "2.00 [2.00, 2.00]", hub, remote, one]
    assert row(text, "reported over true prompt tokens, self-consistency") == ["0.20", "0.00", hub, remote, "0.20"]
    assert row(text, "engine work after the client left, self-consistency") == ["0.00", "0.75", hub, remote, "0.00"]
    assert row(text, "first byte of a stream over its total, plain") == ["0.05", "0.95", hub, remote, "0.05"]
    reached = row(text, "sampling parameters that reach the engine, plain")
    assert reached == ["11 of 11", "0 of 11", hub, remote, "11 of 11"]


def test_failures_stand_in_the_report(journal: Journal, tmp_path: Path) -> None:
    text = PeersReport(journal).write(tmp_path).read_text()
    assert f"- {REMOTE} does not run: not built yet" in text
    costs = text.partition("## Costs")[2].partition("## Parameters")[0]
    assert row(costs, "OptiLLM: majority_voting")[0] == "1 of 5 failed: status 500: it is out of order"


def test_accuracy_stands_beside_a_vote_by_hand(journal: Journal, tmp_path: Path) -> None:
    text = PeersReport(journal).write(tmp_path).read_text()
    # All right, with 50 tokens an item: two samples of 25 each, of which one is right, have half a chance.
    (line,) = [line for line in text.splitlines() if line.startswith("| OptiLLM: moa |")]
    assert "| 1.00 [0.51, 1.00] | 50 | 100 |" in line
    assert line.endswith("| +0.50 [+0.50, +0.50] |")


def test_there_is_a_plot(journal: Journal, tmp_path: Path) -> None:
    PeersReport(journal).write(tmp_path)
    assert (tmp_path / "peers.png").stat().st_size > 20_000


def test_only_what_is_unfinished_or_a_smoke_test_is_marked(journal: Journal, tmp_path: Path) -> None:
    text = PeersReport(journal).write(tmp_path).read_text()
    assert ("smoke test" in text, "Unfinished" in text) == (False, False)
    journal.settings["quick"], journal.complete = True, False
    text = PeersReport(journal).write(tmp_path).read_text()
    assert ("smoke test" in text, "Unfinished" in text) == (True, True)


def test_a_report_of_nothing_says_so(journal: Journal, tmp_path: Path) -> None:
    journal.entries = {}
    journal.facts["failed"] = {}
    assert "not measured" in PeersReport(journal).write(tmp_path).read_text()
