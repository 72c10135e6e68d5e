import json

import pytest

from benchmarks.compare.summary import Result, Times, steps
from tests.benchmarks.compare.judged import block, done, failed, line


@pytest.mark.parametrize(
    ("k", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])]
)
def test_numbers_of_answers(k: int, expected: list[int]) -> None:
    assert steps(k) == expected


def test_times() -> None:
    assert Times.of([1, 2, None, 3]) == Times(2, 2.9)
    assert Times.of([None]) == Times(None, None)


def test_arms_are_compared_on_what_both_answered() -> None:
    lines = [line("plain", item, i, item if item == "x" else "no") for item in "xyz" for i in range(2)]
    lines += [line("other", item, 0, item) for item in "xy"] + [failed("other", "z", 0, "500: x")]
    arms = done("xyz", lines, [block(0, "plain", 6, 60, 3.0), block(1, "other", 3, 20, 1.5)], plain=2, other=1)
    result = Result.of("echo", 3, arms, {"plain": 2, "other": 1}, "plain")
    (pair,) = result.pairs
    assert (pair.ours, pair.theirs, pair.items) == ("other", "plain", 2)
    assert (pair.comparison.difference.value, pair.comparison.gained, pair.comparison.lost) == (0.5, 1, 0)
    assert pair.comparison.p == 1
    plain, other = result.arms
    assert (plain.per_second, other.per_second) == (2, 2)
    assert plain.beside is None
    assert other.beside is not None
    assert (other.beside.items, other.beside.difference.value) == (2, 0.5)
    assert (other.partial, other.errors) == (1, {"500: x": 1})
    assert [one.tokens for one in result.curve] == [10, 20]
    assert json.loads(json.dumps(result.as_json()))["arms"][0]["metrics"]["avg@2"]["value"] == pytest.approx(1 / 3)


def test_an_arm_that_always_fails_has_nothing_to_compare() -> None:
    arms = done("x", [line("plain", "x", 0, "x"), failed("b", "x", 0, "400: no")], [], plain=1, b=1)
    result = Result.of("echo", 1, arms, {"plain": 1, "b": 1}, "plain")
    assert (result.pairs, result.arms[1].beside, result.arms[1].point, result.arms[1].per_second) == (
        [],
        None,
        None,
        None,
    )
