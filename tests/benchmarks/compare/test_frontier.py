"""The curve and what stands beside it, worked out by hand."""

import pytest

from benchmarks.compare.frontier import Answers, beside, curve, point
from benchmarks.metrics import Interval
from tests.benchmarks.compare.judged import done, line


def answers(ids: str, said: dict[str, list[str]], tokens: int | None) -> Answers:
    lines = [line("a", item, i, text, tokens) for item, texts in said.items() for i, text in enumerate(texts)]
    (arm,) = done(ids, lines, [], a=max(map(len, said.values())))
    return arm.outcomes


PLAIN = {"x": ["x", "no", "x"], "y": ["no", "y", "y"]}
"""cons@1 to cons@3 are 1, 1/2, 1 for x and 0, 1/2, 1 for y."""


def test_points() -> None:
    found = point(answers("xy", PLAIN, 20))
    assert found is not None
    assert found.tokens == 20
    assert found.accuracy.value == pytest.approx(2 / 3)
    assert point({}) is None
    assert point(answers("x", {"x": ["x"]}, None)) is None


def test_the_curve() -> None:
    found = curve(answers("xy", PLAIN, 20))
    assert [(one.tokens, one.accuracy.value) for one in found] == [(20, 0.5), (40, 0.5), (60, 1.0)]
    assert curve({}) == curve(answers("x", {"x": ["x"]}, None)) == []


@pytest.mark.parametrize(
    ("tokens", "samples", "yardstick", "reach"),
    [
        (20, 1, 0.5, "within"),
        (30, 1.5, 0.5, "within"),
        (45, 2.25, 0.625, "within"),
        (60, 3, 1.0, "within"),
        (10, 0.5, 0.5, "less"),
        (90, 4.5, 1.0, "more"),
    ],
)
def test_beside_the_curve_at_as_many_tokens(tokens: int, samples: float, yardstick: float, reach: str) -> None:
    arm = answers("xy", {"x": ["x"], "y": ["no"]}, tokens)
    found = beside(arm, answers("xy", PLAIN, 20))
    assert found is not None
    assert found.samples == pytest.approx(samples)
    assert found.items == 2
    assert found.reach == reach
    assert found.difference.value == pytest.approx(0.5 - yardstick)
    assert found.difference.low <= found.difference.value <= found.difference.high


def test_items_are_resampled_for_both_at_once() -> None:
    """An arm that is right where one plain answer is differs from it in no resample."""
    ids = "abcdefgh"
    plain = {item: [item if place % 2 else "no", item] for place, item in enumerate(ids)}
    same = {item: texts[:1] for item, texts in plain.items()}
    found = beside(answers(ids, same, 10), answers(ids, plain, 10))
    assert found is not None
    assert found.difference == Interval(0, 0, 0)
    better = {item: [item] for item in ids}
    found = beside(answers(ids, better, 10), answers(ids, plain, 10))
    assert found is not None
    # The plain one is right at half of eight: two standard errors of their mean are 0.35.
    assert found.difference.value == 0.5
    assert found.difference.low == pytest.approx(0.15, abs=0.03)
    assert found.difference.high == pytest.approx(0.85, abs=0.03)


def test_items_that_one_lacks_are_left_out() -> None:
    found = beside(answers("xy", {"x": ["x"]}, 20), answers("xy", PLAIN, 20))
    assert found is not None
    assert (found.items, found.difference.value) == (1, 0)
    assert beside(answers("x", {"x": ["x"]}, 20), answers("y", {"y": ["y"]}, 20)) is None
    assert beside(answers("x", {"x": ["x"]}, None), answers("x", {"x": ["x"]}, 20)) is None
