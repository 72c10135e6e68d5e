"""Metrics against cases counted by hand."""

import pytest

from benchmarks.metrics import Comparison, Interval, Judged, Refined, avg_at, cons_at, pass_at

RIGHT, WRONG, OTHER, NOTHING = Judged(True, "4"), Judged(False, "5"), Judged(False, "6"), Judged(False, None)


def test_avg_counts_the_first_k() -> None:
    answers = [RIGHT, WRONG, WRONG, RIGHT]
    assert [avg_at(answers, k) for k in (1, 2, 3, 4)] == [1, 1 / 2, 1 / 3, 1 / 2]


def test_pass_is_the_chance_of_a_draw() -> None:
    answers = [WRONG, RIGHT, WRONG, WRONG]
    # Of the six pairs three hold the second answer.
    assert [pass_at(answers, k) for k in (1, 2, 3, 4)] == [1 / 4, 1 / 2, 3 / 4, 1]
    assert pass_at([WRONG, NOTHING], 2) == 0
    assert pass_at([RIGHT, RIGHT], 1) == 1


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([RIGHT, RIGHT, WRONG], 1),
        ([RIGHT, WRONG, WRONG], 0),
        ([WRONG, RIGHT], 1 / 2),
        ([WRONG, OTHER, RIGHT], 1 / 3),
        ([WRONG, WRONG, RIGHT, RIGHT, OTHER], 1 / 2),
        ([NOTHING, NOTHING, NOTHING, RIGHT], 1),
        ([NOTHING, NOTHING], 0),
        ([NOTHING], 0),
    ],
)
def test_consensus(answers: list[Judged], expected: float) -> None:
    assert cons_at(answers, len(answers)) == pytest.approx(expected)
    assert cons_at(answers[::-1], len(answers)) == pytest.approx(expected), "the order decides nothing"


def test_consensus_is_of_the_first_k() -> None:
    assert cons_at([WRONG, RIGHT, RIGHT], 1) == 0
    assert cons_at([WRONG, RIGHT, RIGHT], 3) == 1


@pytest.mark.parametrize("k", [0, 3])
def test_more_answers_than_there_are(k: int) -> None:
    for metric in (avg_at, cons_at, pass_at):
        with pytest.raises(ValueError, match=f"{k} of 2"):
            metric([RIGHT, WRONG], k)


def refined(first: bool, last: bool) -> Judged:
    return Judged(last, "x", first)


def test_flips() -> None:
    answers = [refined(True, True)] * 3 + [refined(True, False)] + [refined(False, True)] * 2 + [refined(False, False)]
    found = Refined.of([*answers, RIGHT])
    assert found is not None
    assert (found.count, found.before, found.after) == (7, 4 / 7, 5 / 7)
    assert (found.gained, found.lost) == (2 / 7, 1 / 7)
    assert (found.confidence_level, found.critique_score) == (3 / 4, 2 / 3)


def test_flips_where_there_are_none_to_flip() -> None:
    assert Refined.of([RIGHT, WRONG]) is None
    always = Refined.of([refined(True, True)])
    assert always is not None
    assert (always.confidence_level, always.critique_score) == (1, None)
    never = Refined.of([refined(False, False)])
    assert never is not None
    assert (never.confidence_level, never.critique_score) == (None, 0)


def test_what_was_right_on_the_way_and_is_wrong_at_the_end_is_wrong() -> None:
    assert avg_at([refined(True, False)], 1) == cons_at([refined(True, False)], 1) == 0


def test_intervals() -> None:
    assert Interval.of([1, 1, 1]) == Interval(1, 1, 1)
    found = Interval.of([0, 1] * 50)
    # Two standard errors of a coin thrown a hundred times are 0.1.
    assert found.value == 0.5
    assert found.low == pytest.approx(0.4, abs=0.02)
    assert found.high == pytest.approx(0.6, abs=0.02)


def test_arms_are_compared_problem_by_problem() -> None:
    ours = [[RIGHT, RIGHT], [RIGHT, WRONG], [WRONG, WRONG], [RIGHT, RIGHT]]
    theirs = [[WRONG, RIGHT], [RIGHT, WRONG], [WRONG, WRONG], [WRONG, WRONG]]
    found = Comparison.of(ours, theirs, 2)
    assert found.difference.value == (0.5 + 0 + 0 + 1) / 4
    assert (found.gained, found.lost, found.p) == (2, 0, 0.5)
    assert Comparison.of(theirs, theirs, 1).difference == Interval(0, 0, 0)
    with pytest.raises(ValueError, match="shorter"):
        Comparison.of(ours, theirs[1:], 1)
