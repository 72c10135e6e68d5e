"""Sentences that a person reads instead of the tables."""

import pytest

from benchmarks.compare.summary import Result
from benchmarks.compare.words import about, between, number, percent, points
from benchmarks.metrics import Interval
from tests.benchmarks.compare.judged import block, done, failed, line


def test_numbers() -> None:
    assert [percent(None), percent(0.456)] == ["-", "46%"]
    assert [between(None), between(Interval(0.5, 0.25, 0.75))] == ["-", "50% (25% to 75%)"]
    assert points(Interval(-0.04, -0.1, 0.02)) == "-4 (-10 to +2)"
    assert [number(None), number(1234.5), number(1.25, 1)] == ["-", "1,234", "1.2"]


def said(other: list[dict[str, object]], tokens: int = 10, counted: int | None = None) -> str:
    lines = [line("plain", item, i, item if i else "no", tokens) for item in "xy" for i in range(2)]
    blocks = [block(0, "plain", 4, 4 * tokens), block(1, "other", len(other), counted)]
    arms = done("xy", [*lines, *other], blocks, plain=2, other=1)
    result = Result.of("echo", 2, arms, {"plain": 2, "other": 1}, "plain")
    return " ".join(about(result.arms[1], result))


def other(item: str, text: str, **more: object) -> dict[str, object]:
    return line("other", item, 0, text, block=1, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "counted", "told"),
    [
        ([other("x", "x"), other("y", "y")], None, "Right on 100% (100% to 100%) of its answers to 2 items."),
        ([other("x", "x"), other("y", "y")], None, "10 generated tokens, 1.0 times those of plain, and 1.0 seconds"),
        ([other("x", "x"), other("y", "y")], None, "right more often: +100 (+100 to +100) points, more than chance"),
        ([other("x", "no"), other("y", "no")], None, "right as often (+0 (+0 to +0) points)"),
        ([other("x", "x", tokens=90), other("y", "y", tokens=90)], None, "more tokens than all plain answers together"),
        ([other("x", "x", tokens=1), other("y", "y", tokens=1)], None, "fewer tokens than one plain answer"),
        (
            [other("x", "x"), other("y", "no", first_attempt="y")],
            None,
            "made 0 of 1 right that were wrong, and 1 wrong",
        ),
        ([other("x", "x", finish_reason="length"), other("y", "")], None, "Cut at the limit of tokens: 1 answer."),
        ([other("x", "x"), other("y", "")], None, "Empty: 1 answer."),
        (
            [other("x", "x"), failed("other", "y", 0, "500: x")],
            None,
            "1 request failed, for which 1 item had to be left out",
        ),
        (
            [failed("other", "x", 0, "500"), failed("other", "y", 0, "500")],
            None,
            "all of its answers: 2 requests failed",
        ),
        ([other("x", "x"), other("y", "y")], 50, "The endpoint told 20 tokens where the engine counted 50."),
        ([other("x", "x", tokens=None), other("y", "y", tokens=None)], None, "How many tokens it takes is not known"),
    ],
)
def test_what_is_said_of_an_arm(lines: list[dict[str, object]], counted: int | None, told: str) -> None:
    assert told in said(lines, counted=counted)


def test_what_is_said_of_several_answers() -> None:
    lines = [line("a", "x", i, text) for i, text in enumerate(["x", "no", "no"])]
    result = Result.of("echo", 1, done("x", lines, [], a=3), {"a": 3}, "a")
    text = " ".join(about(result.arms[0], result))
    assert "to 1 item, 3 to each." in text
    assert "most of the 3 agree on is right on 0% of the items, and at least one of them is on 100%." in text
    assert "Beside" not in text, "it is the yardstick"
