"""How a critique is asked for and read."""

import time

import pytest

from strategies.self_refine.feedback import (
    CRITERIA_FEEDBACK,
    FEEDBACK,
    REVISION,
    ask_for_feedback,
    ask_for_revision,
    read_feedback,
)

TWO = ("is short", "rhymes")


def test_asks_for_faults_without_criteria() -> None:
    assert ask_for_feedback(()) == {"role": "user", "content": FEEDBACK}


def test_asks_for_each_criterion_by_number() -> None:
    message = ask_for_feedback(["is short", "has {braces} and 100%"])
    assert message["role"] == "user"
    assert "\n1. is short\n2. has {braces} and 100%\n" in message["content"]
    assert "{items}" in CRITERIA_FEEDBACK
    assert "{items}" not in message["content"]


def test_asks_for_a_revision() -> None:
    assert ask_for_revision() == {"role": "user", "content": REVISION}


@pytest.mark.parametrize(
    "feedback",
    [
        "no fault",
        "No fault.",
        "I find NO FAULTS.",
        "Line 1.\n**No fault**",
        "There is no fault at all!",
        "The answer to your question is: no fault.",
        "My answer has no fault.",
        "There is no fault in the answer.",
        "I see no faults here.",
    ],
)
def test_no_fault(feedback: str) -> None:
    verdict = read_feedback(feedback, ())
    assert (verdict.met, verdict.faults, verdict.passed, verdict.summary) == (1.0, (), True, "no fault found")


@pytest.mark.parametrize(
    "feedback",
    [
        "The sum is wrong.",
        "",
        "no faulty line, or so",
        "casino faults",
        "nofault",
        "There is no fault in the first step, but the sum is wrong: it should be 20, not 25.",
        "I can not say there is no fault.",
        "There is no fault in the first step.",
        "There isn't no fault",
        "One two three four five six seven eight nine: no fault",
        "No fault.\nBut the sum is wrong.",
    ],
)
def test_faults(feedback: str) -> None:
    verdict = read_feedback(f"  {feedback}\n", ())
    assert (verdict.met, verdict.faults, verdict.passed) == (0.0, (feedback,), False)
    assert verdict.summary == "faults found"


def test_the_request_for_feedback_says_the_words_that_are_read() -> None:
    assert read_feedback(FEEDBACK.rsplit(":", 1)[-1], ()).passed
    assert read_feedback("1. met", ("a",)).passed
    assert '"1. met", or "1. not met:"' in CRITERIA_FEEDBACK


@pytest.mark.parametrize(
    "line",
    ["1. met", "1. Met.", "1: met", "1) MET", "  1. met", "- 1. met", "**1.** met", "1. **met**", "#1 - met", "1 met"],
)
def test_met(line: str) -> None:
    assert read_feedback(f"Here you are:\n{line}\n2. not met: where", TWO).faults == ("rhymes",)


@pytest.mark.parametrize(
    "line",
    [
        "1. not met: too long",
        "1. Not met",
        "1. NOT  MET",
        "1. not yet met",
        "1. unmet",
        "1. metaphors are missing",
        "1. partly met",
        "1. Met? No, the total is wrong.",
        "1. met and not met",
        "1. met\n1. not met: the sum is wrong",
        "1. not met: the sum is wrong\n1. met",
        "1.",
        "met",
        "3. met",
        "11. met",
        "criterion 1. met",
        "1.\nmet",
        "",
    ],
)
def test_what_is_not_called_met_is_a_fault(line: str) -> None:
    assert read_feedback(f"{line}\n2. met", TWO).faults == ("is short",)


@pytest.mark.parametrize(
    ("feedback", "met", "faults", "summary"),
    [
        ("1. met\n2. met", 1.0, (), "2 of 2 criteria met"),
        ("2. met\n1. met", 1.0, (), "2 of 2 criteria met"),
        ("1. not met: here\n2. met", 0.5, ("is short",), "1 of 2 criteria met"),
        ("1. met", 0.5, ("rhymes",), "1 of 2 criteria met"),
        ("1. met, 2. met", 0.5, ("rhymes",), "1 of 2 criteria met"),
        ("No fault at all.", 0.0, TWO, "0 of 2 criteria met"),
        ("", 0.0, TWO, "0 of 2 criteria met"),
    ],
)
def test_verdict_on_criteria(feedback: str, met: float, faults: tuple[str, ...], summary: str) -> None:
    verdict = read_feedback(feedback, TWO)
    assert (verdict.met, verdict.faults, verdict.passed, verdict.summary) == (met, faults, not faults, summary)


@pytest.mark.parametrize(
    "feedback", ["a " * 50_000, "no fault " * 20_000, "\n" * 50_000, "1" + "\n" * 50_000, "1 " * 50_000, "*" * 50_000]
)
def test_reading_takes_linear_time(feedback: str) -> None:
    """A critique of nothing but line ends must not stop the server: a quadratic search takes a minute here."""
    begin = time.perf_counter()
    assert not read_feedback(feedback, TWO).passed
    assert not read_feedback(feedback, ()).passed
    assert time.perf_counter() - begin < 2
