"""The requests of the TT-SI measurement, what is kept of their answers, and the arithmetic of its report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.journal import Journal
from benchmarks.load import Reply
from benchmarks.ttsi import Question, Settings, Task, cells, entry, parts
from benchmarks.ttsi_report import (
    ADAPTED,
    AGAIN,
    ARMS,
    IN_CONTEXT,
    PLAIN,
    Flips,
    Outcomes,
    conclusions,
    entries_of,
    report,
    sweep,
)

JUDGED = {"kind": "uncertainty", "gap": 0.25, "uncertain": True}
PAIRS = {"kind": "pairs", "pairs": 1, "refused": 2}
ADAPTER = {"kind": "adapter", "kept": False}


def epoch(number: int, loss: float) -> dict[str, Any]:
    return {"kind": "epoch", "epoch": number, "loss": loss}


def reply_of(seconds: float, *notes: tuple[float, Mapping[str, Any]]) -> Reply:
    strategy = {"engine": {"completion_tokens": 70}}
    return Reply(200, seconds, None, "", {"completion_tokens": 70}, strategy, "stop", (), notes)


ALL_OF_IT = reply_of(9.0, (1.0, JUDGED), (3.0, PAIRS), (4.0, epoch(1, 2.5)), (6.0, epoch(2, 0.5)), (6.5, ADAPTER))


def test_parts_end_with_their_last_note() -> None:
    assert parts(ALL_OF_IT) == {"judge": 1.0, "pairs": 2.0, "training": 3.0, "loading": 0.5, "answer": 2.5}
    assert parts(reply_of(3.0, (1.0, JUDGED))) == {"judge": 1.0, "answer": 2.0}
    assert parts(reply_of(3.0, (1.0, JUDGED), (2.5, PAIRS))) == {"judge": 1.0, "pairs": 1.5, "answer": 0.5}


def test_time_that_came_to_nothing_is_no_part_of_the_answer() -> None:
    failed = reply_of(9.0, (1.0, JUDGED), (2.0, PAIRS), (8.0, {"kind": "fallback", "reason": "too long"}))
    assert parts(failed) == {"judge": 1.0, "pairs": 1.0, "given up": 6.0, "answer": 1.0}
    assert entry(failed, {"right": False}, 0.95)["fallback"] == "too long"


def test_what_is_kept_of_an_answer() -> None:
    found = entry(ALL_OF_IT, {"right": True}, 0.95)
    assert found.pop("answer") == entry(ALL_OF_IT, {"right": False}, 0.5)["answer"]
    assert found == {
        "right": True,
        "gap": 0.25,
        "uncertain": True,
        "fallback": None,
        "refused": 2,
        "losses": [2.5, 0.5],
        "finish_reason": "stop",
        "tokens": 70,
        "seconds": 9.0,
        "parts": parts(ALL_OF_IT),
    }
    plain = entry(reply_of(2.0, (1.0, JUDGED)), {"right": True}, 0.25)
    assert (plain["uncertain"], plain["refused"], plain["losses"]) == (False, None, None)


def test_every_question_is_asked_of_every_arm() -> None:
    question = Question({"messages": [{"role": "user", "content": "?"}], "temperature": 0}, lambda reply: {})
    found = {
        "simple": Task([question] * 2, 2, 9),
        "gcd": Task([question], 1, 1),
    }
    asked = {key: body for key, body, _ in cells(Settings(seed=3), found)}
    assert asked.keys() == {f"{item}/{arm}" for item in ("simple/0000", "simple/0001", "gcd/0000") for arm in ARMS}
    plain, again = asked[f"gcd/0000/{PLAIN}"], asked[f"gcd/0000/{AGAIN}"]
    same = [asked[f"gcd/0000/{arm}"]["seed"] for arm in ARMS if arm != AGAIN]
    assert set(same) == {plain["seed"]} != {again["seed"]}
    assert plain["seed"] != asked[f"simple/0000/{PLAIN}"]["seed"] != asked[f"simple/0001/{PLAIN}"]["seed"]
    assert plain["strategy"] == again["strategy"] == {"name": "ttsi", "params": {"threshold": 0}}
    adapted = asked[f"simple/0001/{ADAPTED}"]
    assert (adapted["strategy"]["params"], adapted["min_tokens"], adapted["stream"]) == ({"threshold": 1}, 0, True)
    assert adapted["messages"] == question.asked["messages"]


def outcomes(gaps: Sequence[float], plain: Sequence[int], adapted: Sequence[int]) -> Outcomes:
    right = {PLAIN: np.array(plain, dtype=bool), ADAPTED: np.array(adapted, dtype=bool)}
    return Outcomes(np.array(gaps), right)


def test_only_the_uncertain_are_adapted_to() -> None:
    found = outcomes([0.1, 0.5, 0.9, 1.0], plain=[0, 1, 0, 0], adapted=[1, 0, 1, 1])
    assert list(found.uncertain(0.5)) == [True, False, False, False]
    assert list(found.uncertain(1)) == [True] * 4  # A threshold of 1 is every request.
    assert list(found.ttsi(0.5)) == [True, True, False, False]
    right, adapted = sweep(found, np.array([0, 0.5, 0.6, 0.95, 1]))
    assert list(right) == [0.25, 0.5, 0.25, 0.5, 0.75]
    assert list(adapted) == [0, 1, 2, 3, 4]


def test_flips_are_counted_both_ways() -> None:
    found = outcomes([0.1, 0.2, 0.3, 1.0], plain=[0, 0, 1, 1], adapted=[1, 1, 0, 0])
    shown = {where: flips for _, where, flips in found.compared(0.95)}
    assert shown == {"uncertain": Flips(3, 2, 1), "all": Flips(4, 2, 2)}
    certain = outcomes([1.0], plain=[0], adapted=[1])
    assert [where for _, where, _ in certain.compared(0.95)] == ["all"]
    assert [where for _, where, _ in certain.compared(1)] == ["uncertain"]


@pytest.mark.parametrize(
    ("gained", "lost", "verdict"),
    [
        (0, 0, "no difference"),
        (5, 0, "too few changed to tell (it takes 6)"),
        (6, 0, "better"),
        (0, 6, "worse"),
        (7, 1, "no difference is seen"),
        (1, 9, "worse"),
    ],
)
def test_nothing_is_said_that_could_be_chance(gained: int, lost: int, verdict: str) -> None:
    assert Flips(40, gained, lost).verdict() == verdict


def kept(gap: float, right: bool, arm: str, tools: bool) -> dict[str, Any]:
    trained = arm == ADAPTED
    grades = {"right": right, "name": True, "called": True} if tools else {"right": right}
    lasted = {"judge": 0.5, "answer": 1.0} | ({"pairs": 2.0, "training": 3.0, "loading": 0.25} if trained else {})
    return grades | {
        "gap": gap,
        "uncertain": gap < 0.95,
        "fallback": "no pair" if arm == IN_CONTEXT and gap < 0.5 else None,
        "refused": 1 if trained else None,
        "losses": [2.0, 0.5] if trained else None,
        "answer": "other" if right else "same",
        "finish_reason": "length" if arm == PLAIN else "stop",
        "tokens": 50,
        "seconds": sum(lasted.values()),
        "parts": lasted,
    }


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Of 8 items, of which 6 are uncertain: adapted right, plain wrong. `simple` has none."""
    journal = Journal(tmp_path / "ttsi.json", asdict(Settings()))
    for task in ("simple", "gcd"):
        for i in range(8):
            gap = 1.0 if task == "simple" or i >= 6 else 0.1 * i
            for arm in ARMS:
                right = arm == ADAPTED and task == "gcd" and i < 6
                journal.entries[f"{task}/{i:04}/{arm}"] = kept(gap, right, arm, tools=task == "simple")
    journal.facts |= {"date": "", "command": "", "server": "", "machine": {}}
    journal.facts["tasks"] = {task: {"asked": 8, "fit": 9, "of": 10} for task in ("simple", "gcd")}
    return journal


def test_a_report_has_tables_by_certainty(journal: Journal, tmp_path: Path) -> None:
    text = report(journal, tmp_path).read_text()
    none, whole = "0.00 [0.00, 0.32]", "0.75 [0.41, 0.93]"
    assert "gcd 8 (9 of 10 fit)" in text
    assert "| items | n | plain | adapted | adapted, rate x 10 | in context | plain again | TT-SI |" in text
    assert f"| all | 8 | {none} | {whole} | {none} | {none} | {none} | {whole} |" in text
    assert "| certain | 2 | 0.00 [0.00, 0.66] | 0.00 [0.00, 0.66] |" in text
    assert "| uncertain | 0 |  |  |  |  |  |" in text
    assert "| adapted, uncertain | 6 | 6: 1.00 [0.61, 1.00] | 0: 0.00 [0.00, 0.39] | 0.031 | better |" in text
    assert "| plain again, all | 8 | 0: 0.00 [0.00, 0.32] | 0: 0.00 [0.00, 0.32] | 1 | no difference |" in text
    assert "| adapted | 0 | 8 | 0 | 0 | 8 | 2.00 → 0.50 | 50 |" in text
    assert "| adapted | 6 |  | 0 | 0 | 8 | 2.00 → 0.50 | 50 |" in text
    assert "| adapted | 6.75 (6.75) | 0.50 (0.50) | 2 (2) | 3 (3) | 0.25 (0.25) | 1 (1) |" in text
    assert "| plain | 1.50 (1.50) | 0.50 (0.50) |  |  |  | 1 (1) |" in text
    assert (tmp_path / "ttsi.png").stat().st_size > 1000


def test_conclusions_are_no_stronger_than_the_numbers(journal: Journal) -> None:
    simple = "\n".join(conclusions("simple", entries_of(journal, "simple"), 0.95))
    assert "0 of 8 items are uncertain at 0.95, 0.00 [0.00, 0.32]" in simple
    assert "TT-SI adapts to none of them" in simple
    assert "right call, adapted against plain, all items (8): 0 wrong → right" in simple
    gcd = "\n".join(conclusions("gcd", entries_of(journal, "gcd"), 0.95))
    assert "6 wrong → right, 0 right → wrong, p = 0.031: better." in gcd
    assert (
        "Median seconds an item: plain 1.50; adapted 6.75; adapted, rate x 10 1.50; in context 1.50; plain again 1.50."
        in gcd
    )
    assert "answered as if plain: 5 of 8 (in context)" in gcd
