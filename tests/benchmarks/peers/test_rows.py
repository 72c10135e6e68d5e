"""The arithmetic of each row, by cases computed by hand."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.journal import Journal
from benchmarks.metrics import Judged
from benchmarks.peers.accuracy import by_hand
from benchmarks.peers.arms import ARMS, DIRECT, SAMPLED, Arm
from benchmarks.peers.rows import Answered, Rows, Unmeasured, beside_vote

ARM = next(arm for arm in ARMS if arm.name == "OptiLLM: self_consistency")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "peers.json", {"seed": 1, "samples": 2})
    journal.facts["failed"] = {"its_hub": "pip cannot install its_hub"}
    return journal


def rounds(journal: Journal, kind: str, arm: Arm, *entries: dict[str, Any]) -> None:
    for number, entry in enumerate(entries):
        journal.entries[f"{kind}/{arm.name}/{number:02}"] = entry


def judged(*answers: str) -> list[Judged]:
    """Right ones are written +, wrong ones by what they say."""
    return [Judged(answer == "+", answer) for answer in answers]


def test_seconds_are_divided_round_by_round(journal: Journal) -> None:
    rounds(journal, "plain", DIRECT, {"seconds": 1.0}, {"seconds": 2.0}, {"seconds": 4.0})
    rounds(journal, "vote", ARM, {"seconds": 5.0}, {"seconds": 8.0}, {"seconds": 24.0})
    r = Rows(journal).over_one_call("vote", ARM)
    assert r.pairs == (5.0, 4.0, 6.0)
    assert r.value == 5.0


def test_fewer_rounds_are_compared_with_as_many(journal: Journal) -> None:
    rounds(journal, "plain", DIRECT, {"seconds": 1.0}, {"seconds": 2.0}, {"seconds": 4.0})
    rounds(journal, "crowd", ARM, {"seconds": 3.0}, {"seconds": 8.0})
    assert Rows(journal).over_one_call("crowd", ARM).pairs == (3.0, 4.0)


def test_reported_tokens_over_true_ones_are_of_all_rounds_together(journal: Journal) -> None:
    entry = {"reported": {"prompt": 0, "completion": 80}, "true": {"prompt": 50, "completion": 160}}
    other = {"reported": {"prompt": 0, "completion": 0}, "true": {"prompt": 50, "completion": 40}}
    rounds(journal, "vote", ARM, entry, other)
    assert Rows(journal).reported_over_true("vote", ARM) == {"prompt": 0.0, "completion": 0.4}


def test_an_engine_that_made_nothing_has_no_share(journal: Journal) -> None:
    nothing = {"prompt": 0, "completion": 0}
    rounds(journal, "vote", ARM, {"reported": nothing, "true": nothing})
    with pytest.raises(Unmeasured, match="made nothing"):
        Rows(journal).reported_over_true("vote", ARM)


def test_work_after_leaving_over_all_work(journal: Journal) -> None:
    rounds(journal, "leave", ARM, {"whole": 160, "after": 128}, {"whole": 160, "after": 112})
    rounds(journal, "leave stream", ARM, {"whole": 160, "after": 0})
    assert Rows(journal).after_leaving(ARM, stream=False) == 0.75
    assert Rows(journal).after_leaving(ARM, stream=True) == 0


def test_first_byte_over_total_is_the_median_rounds(journal: Journal) -> None:
    entries = [(2.0, 1.0), (4.0, 3.0), (1.0, 0.1)]
    rounds(journal, "stream", ARM, *({"seconds": s, "first_byte": b, "first_text": None} for s, b in entries))
    assert Rows(journal).first_over_total(ARM) == 0.5
    with pytest.raises(Unmeasured, match="no text"):
        Rows(journal).first_over_total(ARM, "first_text")


def test_parameters_as_they_were_found(journal: Journal) -> None:
    rounds(journal, "parameters", ARM, {"reached": {"top_p": False, "seed": True}, "refused": {}})
    assert Rows(journal).parameters(ARM) == {"top_p": False, "seed": True}


def test_a_failure_is_told_and_not_left_out(journal: Journal) -> None:
    rounds(journal, "vote", ARM, {"seconds": 1.0}, {"error": "status 500: truncated"})
    with pytest.raises(Unmeasured, match="1 of 2 failed: status 500: truncated"):
        Rows(journal).over_one_call("vote", ARM)


def test_a_gateway_that_does_not_run_says_why(journal: Journal) -> None:
    arm = next(arm for arm in ARMS if arm.gateway == "its_hub")
    with pytest.raises(Unmeasured, match="pip cannot install"):
        Rows(journal).answers(arm)
    with pytest.raises(Unmeasured, match="not measured"):
        Rows(journal).answers(SAMPLED)


def test_blocks_make_one_task(journal: Journal) -> None:
    block = {"judged": [[[True, "right"]], []], "errors": ["status 500"], "seconds": [1.0, 9.0]}
    block |= {"reported": {"prompt": 5, "completion": 30}, "true": {"prompt": 20, "completion": 60}}
    rounds(journal, "answers", ARM, block, block)
    found = Rows(journal).answers(ARM)
    assert found.right() == [1.0, 0.0, 1.0, 0.0]
    assert (found.prompt, found.completion, found.seconds) == (10.0, 30.0, 5.0)
    assert found.errors == ["status 500", "status 500"]


def answered(completion: float, *items: list[Judged]) -> Answered:
    return Answered(items, 0.0, completion, 1.0, [])


def test_votes_by_hand() -> None:
    votes = answered(300, judged("+", "7", "+"), judged("7", "+", "7"), [])
    assert votes.voted(1) == [1.0, 0.0, 0.0]
    # A tie of two is half a chance.
    assert votes.voted(2) == [0.5, 0.5, 0.0]
    assert votes.voted(3) == [1.0, 0.0, 0.0]


def test_as_many_tokens_as_two_samples_are_compared_with_two() -> None:
    votes = answered(300, judged("+", "7", "+"), judged("7", "7", "7"))
    arm = answered(200, judged("+"), judged("+"))
    assert beside_vote(arm, votes).value == pytest.approx(1 - (0.5 + 0) / 2)


def test_between_two_numbers_of_samples_there_is_a_mixture() -> None:
    votes = answered(300, judged("+", "7", "+"), judged("+", "+", "+"))
    arm = answered(150, judged("+"), judged("7"))
    # One sample: 1 and 1. Two: 0.5 and 1. Half of each: 0.75 and 1.
    assert beside_vote(arm, votes).value == pytest.approx((1 - 0.75 + 0 - 1) / 2)


@pytest.mark.parametrize(("tokens", "votes_right"), [(1.0, 1.0), (9999.0, 0.0)])
def test_beyond_the_ends_the_ends_are_taken(tokens: float, votes_right: float) -> None:
    votes = answered(300, judged("+", "7", "7"))
    assert beside_vote(answered(tokens, judged("+")), votes).value == 1 - votes_right


def test_rows_take_the_vote_of_the_same_journal(journal: Journal) -> None:
    hand = {"judged": [[[True, "right"], [False, "7"]]], "errors": [], "seconds": [1.0]}
    hand |= {"reported": {"prompt": 5, "completion": 80}, "true": {"prompt": 20, "completion": 80}}
    rounds(journal, "answers", by_hand(2), hand)
    one = {**hand, "judged": [[[True, "right"]]], "true": {"prompt": 20, "completion": 80}}
    rounds(journal, "answers", ARM, one)
    assert Rows(journal).at_equal_tokens(ARM).value == 0.5
