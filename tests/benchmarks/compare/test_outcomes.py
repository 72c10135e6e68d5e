"""From lines to judged answers, counted by hand."""

import pytest

from benchmarks.compare.outcomes import Counted, outcomes
from benchmarks.compare.summary import Summary
from benchmarks.suites import Item
from tests.benchmarks.compare.judged import Echo, block, done, failed, line, settings


def test_ties_empty_answers_and_cut_ones() -> None:
    lines = [
        *(line("a", "x", i, text) for i, text in enumerate(["x", "no", "no"])),
        line("a", "y", 0, "y"),
        line("a", "y", 1, "no", finish_reason="length"),
        line("a", "y", 2, "  "),
    ]
    (arm,) = done("xy", lines, [], a=3)
    found = Summary.of(arm, 3, None)
    values = {name: interval.value for name, interval in found.metrics.items()}
    # x: one of three is right, and the vote is wrong; y: one of three, and a tie, in which the empty one has no voice.
    assert values == pytest.approx(
        {
            **{"avg@1": 1.0, "avg@2": 0.5, "avg@3": 1 / 3},
            **{"cons@1": 1.0, "cons@2": 0.5, "cons@3": 0.25},
            **{"pass@1": 1 / 3, "pass@2": 2 / 3, "pass@3": 1.0},
        }
    )
    assert (found.cut, found.empty, found.items) == (1, 1, 2)
    assert found.refined is None


def test_a_cut_answer_is_graded_as_it_is() -> None:
    (arm,) = done("x", [line("a", "x", 0, "x", finish_reason="length")], [], a=1)
    assert [(one.judged.right, one.cut) for one in arm.answers] == [(True, True)]


def test_answers_before_and_after() -> None:
    first = ["x", "x", "no", "no", "no", None]
    texts = ["x", "no", "x", "no", "", "x"]
    lines = [line("a", "x", i, text, first_attempt=first[i]) for i, text in enumerate(texts)]
    (arm,) = done("x", lines, [], a=6)
    refined = Summary.of(arm, 6, None).refined
    assert refined is not None
    assert (refined.count, refined.before, refined.after) == (5, 2 / 5, 2 / 5)
    assert (refined.gained, refined.lost) == (1 / 5, 1 / 5)
    assert (refined.confidence_level, refined.critique_score) == (1 / 2, 1 / 3)


def test_what_is_answered_by_calls_has_no_first_text() -> None:
    suite = Echo("")
    suite.items = [Item("x", [], "x", tools=[{"type": "function"}])]
    (arm,) = outcomes(settings(a=1), suite, [line("a", "x", 0, "x", first_attempt="no", calls=[["f", "{}"]])], [])
    assert arm.answers[0].judged.first_right is None
    assert not arm.answers[0].empty


def test_failures_are_not_wrong_answers() -> None:
    lines = [line("a", "x", 0, "x"), failed("a", "y", 0, "503: no"), failed("b", "x", 0, "503: no", busy=2)]
    lines += [failed("b", "y", 0, "connection: x")]
    a, b = done("xy", lines, [], a=1, b=1)
    assert (list(a.outcomes), a.partial, a.errors) == (["x"], ["y"], {"503: no": 1})
    assert (list(b.outcomes), b.partial, b.busy) == ([], ["x", "y"], 2)
    assert b.errors == {"503: no": 1, "connection: x": 1}
    assert Summary.of(a, 1, None).metrics["avg@1"].value == 1
    assert Summary.of(b, 1, None).metrics == {}


def test_the_last_line_of_an_answer_counts() -> None:
    lines = [failed("a", "x", 0, "503: no"), line("a", "x", 0, "x", block=1)]
    (arm,) = done("x", lines, [block(0, "a", 1, 30), block(1, "a", 1, 10)], a=1)
    assert (arm.errors, arm.partial, len(arm.answers)) == ({}, [], 1)
    tokens = {"prompt": 5, "cached": 2, "completion": 10}
    assert arm.counted == Counted(1, 1, tokens, tokens)


def test_an_item_without_all_of_its_answers_is_left_out() -> None:
    (arm,) = done("xy", [line("a", "x", 0, "x"), line("a", "x", 1, "x"), line("a", "y", 0, "y")], [], a=2)
    assert (list(arm.outcomes), arm.partial) == (["x"], ["y"])


def test_told_and_counted_agree() -> None:
    lines = [line("a", item, 0, item) for item in "xy"]
    (arm,) = done("xy", lines, [block(0, "a", 2, 20)], a=1)
    assert arm.counted.agree is True
    assert arm.counted.told == arm.counted.engine == {"prompt": 10, "cached": 4, "completion": 20}
    assert [one.tokens for one in arm.answers] == [10, 10]


def test_tokens_that_were_not_told_are_shared() -> None:
    lines = [line("a", "x", 0, "x", 10), line("a", "y", 0, "y", 30), line("a", "z", 0, "z", 7, block=1)]
    (arm,) = done("xyz", lines, [block(0, "a", 2, 80)], a=1)
    # The third one's block did not come to its end: there is what was told, no more.
    assert [one.tokens for one in arm.answers] == [20, 60, 7]
    assert (arm.counted.answers, arm.counted.of, arm.counted.agree) == (2, 3, False)
    assert (arm.counted.told["completion"], arm.counted.engine["completion"]) == (40, 80)


def test_an_endpoint_that_tells_nothing() -> None:
    lines = [line("a", item, 0, item, None) for item in "xy"]
    (arm,) = done("xy", lines, [block(0, "a", 2, 80)], a=1)
    assert [one.tokens for one in arm.answers] == [40, 40]
    (arm,) = done("xy", lines, [block(0, "a", 2, None)], a=1)
    assert [one.tokens for one in arm.answers] == [None, None]
    assert arm.counted.agree is None
    found = Summary.of(arm, 1, None)
    assert (found.point, found.told["completion"], found.told["prompt"]) == (None, None, 5)


def test_a_block_with_a_failure_proves_nothing() -> None:
    lines = [line("a", "x", 0, "x"), failed("a", "y", 0, "500: died")]
    (arm,) = done("xy", lines, [block(0, "a", 2, 99)], a=1)
    assert (arm.answers[0].tokens, arm.counted.answers) == (10, 0)


def test_a_prompt_counts_once_for_each_sample() -> None:
    engine = {"prompt_tokens": 15, "cached_tokens": 10, "completion_tokens": 10, "requests": 3}
    (arm,) = done("x", [line("a", "x", 0, "x", engine=engine)], [block(0, "a", 1, 10)], a=1)
    assert arm.counted.told == {"prompt": 15, "cached": 10, "completion": 10}
    assert Summary.of(arm, 1, None).told == {"prompt": 5, "cached": 2, "completion": 10}
