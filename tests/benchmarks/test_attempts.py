"""What was said before it was refined."""

from typing import Any

import pytest

from benchmarks.attempts import FirstAttempt

END = ("answer", 0, "final", "The end.", None)


def draft(text: str, branch: int = 0, role: str = "draft") -> tuple[str, int, str, str, Any]:
    return "thought", branch, role, text, None


def note(kind: str, branch: int = 0, **data: Any) -> tuple[str, int, str, str, Any]:
    return "note", branch, "attempt", "", {"kind": kind, **data}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([draft("a "), draft("b"), draft("no", role="critique"), draft("c", 1, "revision"), END], "a b"),
        ([draft("a", role="attempt"), note("verified"), draft("b", role="attempt"), note("verified"), END], "a"),
        ([draft("x", 1, "attempt"), draft("a", 0, "attempt"), draft("y", 1, "attempt"), END], "a"),
        ([draft("a", 0, "attempt"), note("verified", 1), draft("b", 0, "attempt"), END], "ab"),
        ([note("verified"), draft("b", role="attempt"), END], ""),
        ([draft("a", role="attempt"), note("trigger", finished=False), draft("b", role="attempt"), END], None),
        ([draft("a", role="attempt"), note("trigger", finished=True), draft("b", role="attempt"), END], "a"),
        ([draft("a", role="sample"), draft("b", 1, "sample"), END], None),
        ([END], None),
        ([], None),
    ],
)
def test_first_attempts(events: list[tuple[str, int, str, str, Any]], expected: str | None) -> None:
    read = FirstAttempt()
    for event, branch, role, text, said in events:
        beside = {"event": event, "branch": branch, "role": role, "note": said}
        read.add(beside, text if event == "thought" else "")
    assert read.text == expected


def test_a_stream_without_strategies() -> None:
    read = FirstAttempt()
    read.add({}, "the model's own reasoning")
    assert read.text is None
