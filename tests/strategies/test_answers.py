"""What an answer's text comes down to, and which answers say the same."""

import asyncio
import os
import sys
import time
from concurrent.futures import Future
from typing import Any

import pytest
from pebble import ProcessExpired

from strategies import answers, judge
from strategies.answers import AnswerKind, extract_answer, find_same, normalise

HOSTILE = "9^{9^{9^{9^9}}}"
PATIENT_SECONDS = 30.0


def no_judge() -> None:
    """In place of the judge, where none is needed."""
    raise AssertionError("the judge was called")


class DyingJudge:
    """In place of a judge whose process ends, as one does that has used up the memory."""

    def schedule(self, function: object, **options: Any) -> Future[int | None]:
        """A comparison that never comes to its end."""
        future: Future[int | None] = Future()
        future.set_exception(ProcessExpired("gone"))  # type: ignore[no-untyped-call]
        return future


def has_loaded_math_verify() -> bool:
    """Runs in the judge's process."""
    return "math_verify" in sys.modules


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough for the judge on a busy machine."""
    monkeypatch.setattr(judge, "JUDGE_SECONDS", PATIENT_SECONDS)


# Extraction.


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # JSON by value.
        ('{"b": 1, "a": [1, 2]}', '{"a":[1,2],"b":1}'),
        ("\n[1,\n 2]\n", "[1,2]"),
        ('{"b": true,', '{"b": true'),
        # Tool calls too, in the ways in which models write them.
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1.0}}\n</tool_call>', '{"arguments":{"a":1},"name":"f"}'),
        ('[{"name": "f", "arguments": {}}]', '[{"arguments":{},"name":"f"}]'),
        ('<tool_call>{"b": 1}</tool_call>\n<tool_call>{"c": 2}</tool_call>', '{"b":1}\n{"c":2}'),
        # Boxed, wherever it stands, with its braces.
        (r"So \boxed{42}. That is all.", "42"),
        (r"\boxed{1} or rather \boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{ \text{a set } \{1, 2\} }", r"\text{a set } \{1, 2\}"),
        # Marked: GSM8K's sign, or words.
        ("2 + 3 = 5\n#### 5", "5"),
        ("#### 7\n#### 1,234\nDone, in 3 steps\nBye", "1,234"),
        ("The answer is 42.\nI hope this helps!", "42"),
        ("The answer is $x^2+1$.\nOk?", "x^2+1"),
        ("Answer: yes, of course.\nI hope this helps!", "yes, of course"),
        ("final ANSWER = 3/4\nthat's it", "3/4"),
        ("8 - 2 = 6\nThe answer is 3 + 5 - 2.", "3 + 5 - 2"),
        ("The answer is (1 + 2) * 3", "(1 + 2) * 3"),
        ("The answer is 3 + 5 apples", "5"),
        # The last line.
        ("First 7.\nThen 6 times 7 makes 42", "42"),
        ("It costs 5 or\nabout $5.00.", "$5.00"),
        ("about -3.5%", "-3.5%"),
        ("is 3 / 4", "3 / 4"),
        (r"so \(x+1\)", "x+1"),
        (r"so \[x+1\] or \[x+2\]", "x+2"),
        ("so $$x+1$$", "x+1"),
        ("so $2x=4$ holds", "2x=4"),
        # No answer to be told: all of it.
        ("There are 3 of them.\nThey are  RED!", "there are 3 of them. they are red"),
        (r"unclosed \boxed{x", r"unclosed \boxed{x"),
        ("  ", ""),
    ],
)
def test_extraction(text: str, answer: str) -> None:
    assert extract_answer(text, "auto") == answer


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("math", "It is 42.\nWhich is nice.", "42"),
        ("math", "1, then 2,\nthen 3\nand so on", "3"),
        ("math", '{"a": 7}', "7"),
        ("math", "None at all.", "none at all"),
        ("choice", "Not A but (b) or (C)", "C"),
        ("choice", "B", "B"),
        ("choice", "**D**", "D"),
        ("choice", "It's not known.", "it's not known"),
        ("text", "The answer is 42.\n  Really!", "the answer is 42. really"),
        ("text", '{"b": 1}', '{"b": 1}'),
    ],
)
def test_extraction_of_a_kind(kind: AnswerKind, text: str, answer: str) -> None:
    assert extract_answer(text, kind) == answer


def test_normalise() -> None:
    assert normalise(" **Paris**,\n\tFrance. ") == "paris**, france"
    assert normalise("STRASSE") == normalise("straße")


@pytest.mark.parametrize(
    "text",
    ["$1" + "=" * 50_000, r"\(" * 25_000, r"\[" * 25_000, "$$" + "a" * 50_000, "answer" + " " * 50_000, "1," * 25_000],
    ids=["dollar", "parenthesis", "bracket", "display", "answer", "number"],
)
def test_extraction_takes_linear_time(text: str) -> None:
    """A model that repeats itself must not stop the server: a quadratic search takes 10 s and more here."""
    begin = time.perf_counter()
    extract_answer(text, "math")
    assert time.perf_counter() - begin < 2


# Comparison.


@pytest.mark.parametrize(
    ("answer", "other"),
    [
        ("1,234", "1234"),
        ("$5.00", "5"),
        ("3/4", "0.75"),
        ("3 / 4", "3/4"),
        ("50%", "0.5"),
        ("-2.50", "-2.5"),
        ("3 + 5 - 2", "6"),
        ("3 + 5 * 2", "(4 + 9)"),
        ("(1 - 2)/4", "-0.25"),
    ],
)
async def test_plain_numbers_are_the_same_by_value(answer: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "judged", no_judge)
    assert await find_same(answer, ["7", other, other], "auto") == 1
    assert await find_same(other, [answer], "math") == 0


@pytest.mark.parametrize(
    ("answer", "known", "kind"),
    [
        ("5", ["50", "5%", "-5", "5/2"], "auto"),
        ("1.50", ["15", "1.05"], "auto"),
        ("yes", ["no", "5"], "auto"),
        ("1+x", ["x+1"], "text"),
        ("1234", ["1,234"], "text"),
        ("A", ["B"], "choice"),
        ('{"a":1}', ['{"a":2}', "1"], "auto"),
        ("x" * 401 + "1", ["x" * 402 + "1", "5"], "math"),
        ("5", [], "auto"),
    ],
)
async def test_different_answers_without_a_judge(
    answer: str, known: list[str], kind: AnswerKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "judged", no_judge)
    assert await find_same(answer, known, kind) is None


async def test_equal_texts_are_the_same_in_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "judged", no_judge)
    for kind in ("auto", "math", "choice", "text"):
        assert await find_same("b", ["a", "b", "b"], kind) == 1
    assert await find_same(HOSTILE, [HOSTILE], "math") == 0


async def test_prose_is_compared_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Math-verify would compare the numbers in it."""
    monkeypatch.setattr(answers, "judged", no_judge)
    apples, pears = (extract_answer(f"I have 3 {fruit}.\nThey are red.", "auto") for fruit in ("apples", "pears"))
    assert await find_same(apples, [pears], "auto") is None


async def test_more_digits_than_python_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "judged", no_judge)
    assert await find_same("5", ["1" + "0" * 5000, "5.0"], "auto") == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("answer", "known", "position"),
    [
        ("x^2+1", ["x^2-1", "1+x^2"], 1),
        (r"\frac{1}{2}", ["0.5"], 0),
        ("0.5", ["7", "x", r"\frac{1}{2}"], 2),
        (r"\frac{1}{2}", ["yes", "2", "x+2"], None),
        ("2^{10}", ["1024"], 0),
        ("(1,2)", ["(2,1)", "(1, 2)"], 1),
        ("x=5", ["5"], 0),
        ("5", ["1/0", "5/0"], None),
        ("5", ["x=5"], 0),
        ("x>5", [r"(5,\infty)"], 0),
        (r"(5,\infty)", ["x>5"], 0),
    ],
)
async def test_expressions_are_the_same_by_value(answer: str, known: list[str], position: int | None) -> None:
    assert await find_same(answer, known, "math") == position


async def test_a_new_judge_has_loaded_math_verify_before_its_first_task() -> None:
    """On a busy machine that takes longer than JUDGE_SECONDS, and after each kill the judge is new."""
    with pytest.raises(ProcessExpired):
        await asyncio.wrap_future(judge._judge(judge.ANSWERS).schedule(os._exit, args=(3,)))
    assert await asyncio.wrap_future(judge._judge(judge.ANSWERS).schedule(has_loaded_math_verify))


async def test_a_hostile_expression_costs_no_more_than_the_judges_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "JUDGE_SECONDS", PATIENT_SECONDS)
    assert await find_same("x+1", ["1+x"], "math") == 0

    monkeypatch.setattr(judge, "JUDGE_SECONDS", 1.0)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    begin = time.perf_counter()
    async with asyncio.timeout(PATIENT_SECONDS):
        found = await find_same(HOSTILE, ["9^{9^{9^{9^8}}}", "9^{9^{9^{9^7}}}", "1"], "math")
    seconds = time.perf_counter() - begin
    ticking.cancel()
    assert found is None
    assert 0.9 < seconds < PATIENT_SECONDS / 2
    assert ticks > 20, "the event loop stood still"

    monkeypatch.setattr(judge, "JUDGE_SECONDS", PATIENT_SECONDS)
    assert await find_same("x+1", ["1+x"], "math") == 0


async def test_a_judge_that_cannot_start_makes_room_for_one_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "JUDGE_SECONDS", PATIENT_SECONDS)
    monkeypatch.setitem(judge._PREPARE, judge.SCHEMAS, os.abort)
    monkeypatch.delitem(judge._JUDGES, judge.SCHEMAS, raising=False)
    with pytest.raises(judge.Undecided):
        await judge.judged(os.getpid, pool=judge.SCHEMAS)
    monkeypatch.undo()
    monkeypatch.setattr(judge, "JUDGE_SECONDS", PATIENT_SECONDS)
    assert await judge.judged(os.getpid, pool=judge.SCHEMAS) != os.getpid()


async def test_a_judge_that_dies_says_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_judge", lambda name: DyingJudge())
    assert await find_same("x+1", ["1+x"], "math") is None
