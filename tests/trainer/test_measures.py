"""What outcomes come to, against values worked out by hand."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from clients.events import AnswerDelta, Done, Event, Note, Thought
from trainer.artefacts import Artefact, ArtefactError
from trainer.evaluate import OUTCOMES, told
from trainer.measures import Measure, Outcomes, auroc, winner
from trainer.report import _against, _at_equal_tokens, joined, roc, sizes, write_report


@pytest.mark.parametrize(
    ("confidences", "right", "expected"),
    [
        ([0.9, 0.8, 0.2, 0.1], [True, True, False, False], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [False, False, True, True], 0.0),
        ([0.5, 0.5, 0.5], [True, False, False], 0.5),
        ([0.9, 0.4, 0.6, 0.1], [True, True, False, False], 0.75),
        ([0.7, 0.7, 0.3], [True, False, False], 0.75),
        ([0.7], [True], math.nan),
    ],
)
def test_auroc(confidences: list[float], right: list[bool], expected: float) -> None:
    assert auroc(confidences, right) == pytest.approx(expected, nan_ok=True)


def test_a_curve_has_its_area() -> None:
    confidences, right = [0.9, 0.4, 0.6, 0.1, 0.6], [True, True, False, False, True]
    curve = roc(confidences, right)
    assert [curve[0], curve[-1]] == [(0.0, 0.0), (1.0, 1.0)]
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(curve))
    assert area == pytest.approx(auroc(confidences, right))


def attempt(text: str, confidence: float, right: bool, refine: bool = False) -> dict[str, Any]:
    return {"text": text, "confidence": confidence, "right": right, "refine": refine}


FOUR, FIVE, SIX = attempt("is 4", 0.2, True), attempt("is 5", 0.9, False), attempt("is 6", 0.3, False)


CUT = {"text": "is 4 and", "confidence": None, "right": True, "refine": False}
EMPTY = {"text": "", "confidence": None, "right": False, "refine": False}


@pytest.mark.parametrize(
    ("branches", "weighted", "expected"),
    [
        ([[FOUR], [FIVE], [FOUR]], False, True),
        ([[FOUR], [FIVE], [FOUR]], True, False),
        ([[FIVE, FOUR]], True, True),  # The last attempt is the answer,
        ([[FIVE, CUT]], False, False),  # if it came to its end.
        ([[CUT]], False, True),
        ([[CUT], [CUT], [FIVE]], False, False),
        ([[FOUR], [FIVE]], False, True),  # Of equals the first.
        ([[FIVE], [FOUR], [attempt("is 8/2", 0.1, True)]], False, True),  # It says the same.
        ([], False, False),
        ([[EMPTY], [EMPTY], [FOUR]], False, True),  # What says nothing has no vote,
        ([[EMPTY], [EMPTY], [FOUR]], True, True),
        ([[EMPTY], [EMPTY], [CUT]], False, True),
        ([[EMPTY]], False, False),  # unless all do.
    ],
)
async def test_votes(branches: list[Any], weighted: bool, expected: bool) -> None:
    """As the strategy counts them."""
    assert await winner(branches, weighted) == expected


def line(problem: str, greedy: list[Any], *sampled: list[Any], tokens: int = 40) -> dict[str, Any]:
    return {
        "problem": problem,
        "greedy": {"branches": [greedy], "tokens": 10},
        "sampled": {"branches": list(sampled), "tokens": tokens},
    }


LINES = [
    line("1", [FIVE, FOUR], [FOUR], [FIVE], [FOUR], [FIVE, FOUR]),
    line("2", [FOUR], [FIVE], [FIVE], [FIVE], [FOUR]),
    line("3", [FOUR, SIX], [FOUR], [FOUR], [SIX], [SIX]),
]


def test_outcomes() -> None:
    found = Outcomes(LINES)
    assert (found.first(), found.last(), found.refined()) == (
        [False, True, True],
        [True, True, False],
        [True, False, True],
    )
    assert found.samples == 4
    assert found.tokens() == 10
    assert found.sampled_first().value == pytest.approx((2 / 4 + 1 / 4 + 2 / 4) / 3)
    assert found.votes(1, weighted=False) == [0.75, 0.25, 0.5]
    # Of the first: right and wrong; wrong and right; right, then wrong; and round about two right ones.
    assert found.votes(2, weighted=False)[0] == 0.75
    assert list(found.votes_at(1.5, weighted=False)) == [
        (one + two) / 2 for one, two in zip(found.votes(1, weighted=False), found.votes(2, weighted=False), strict=True)
    ]
    assert list(found.votes_at(9.0, weighted=False)) == found.votes(4, weighted=False)
    assert found.votes(4, weighted=False) == [1.0, 0.0, 1.0]
    assert found.votes(4, weighted=True) == [0.0, 0.0, 0.0]
    assert (found.kept().value, found.corrected().value) == (0.5, 1.0)
    # Of 5 right first attempts, all at 0.2, and 7 wrong ones, of which none is below.
    assert found.auroc().value == 0.0


def test_what_was_cut_is_not_verified() -> None:
    found = Outcomes([line("1", [FIVE, CUT], [CUT], [FOUR], [FIVE], [CUT])])
    assert (found.last(), found.refined(), found.cut()) == ([False], [True], 2)
    assert [one["text"] for one in found.first_samples()] == ["is 4", "is 5"]
    assert found.auroc().value == 0.0


def test_what_says_nothing_was_asked_all_the_same() -> None:
    """As a wrong first answer, which is not verified."""
    found = Outcomes([line("1", [EMPTY], [FOUR], [EMPTY], [FOUR], [FOUR]), line("2", [FOUR], *[[EMPTY]] * 4)])
    assert (found.first(), found.last(), found.refined()) == ([False, True], [False, True], [False, False])
    assert found.sampled_first().value == (3 / 4 + 0) / 2
    assert [one["text"] for one in found.first_samples()] == ["is 4"] * 3
    assert (found.cut(), found.empty(), found.samples, found.tokens()) == (0, 5, 4, 10)
    assert found.votes(4, weighted=False) == found.votes(4, weighted=True) == [1.0, 0.0]


def greedy(*branches: list[dict[str, Any]]) -> Outcomes:
    """Of evaluations without samples."""
    return Outcomes([{"problem": str(i), "greedy": {"branches": [branch]}} for i, branch in enumerate(branches)])


def test_verdicts() -> None:
    doubted, sure = attempt("is 5", 0.4, False, refine=True), attempt("is 7", 0.8, False)
    wrongly = attempt("is 4", 0.3, True, refine=True)
    found = greedy([doubted, FOUR], [sure], [wrongly, FOUR], [FOUR], [FOUR], [CUT])
    of_wrong, of_right = found.verdicts()
    assert of_wrong.value == 1 / 2
    assert of_right.value == pytest.approx(1 / 3)
    assert found.samples == 0


@pytest.mark.parametrize(
    ("threshold", "again", "right"),
    [
        (0.0, [False, False, False, False], [False, True, False, True]),
        (0.5, [False, True, True, False], [False, False, True, True]),
        (0.9, [False, True, True, False], [False, False, True, True]),
        (1.0, [True, True, True, False], [True, False, True, True]),
    ],
)
def test_what_a_threshold_would_have_made(threshold: float, again: list[bool], right: list[bool]) -> None:
    """Sure and wrong, unsure and right, unsure and wrong, cut."""
    found = greedy([FIVE, FOUR], [FOUR, FIVE], [SIX, FOUR], [CUT])
    assert found.again_at(threshold) == again
    assert found.last_at(threshold) == right


def test_an_interval_holds_its_value() -> None:
    found = Measure.mean([1.0] * 70 + [0.0] * 30)
    assert found.value == pytest.approx(0.7)
    assert 0.55 < found.low < 0.7 < found.high < 0.85
    assert Measure.mean([1.0] * 5) == Measure(1.0, 1.0, 1.0)
    assert sizes(9) == [1, 2, 4, 8]


def test_a_report_says_what_outcomes_come_to(tmp_path: Path) -> None:
    evaluations = {}
    for name in ("sft", "revise"):
        artefact = Artefact.open(tmp_path / name, "evaluate", {"rounds": 1, "samples": 4})
        # Whichever was answered first stands first: what is compared is of the same problem.
        artefact.log(OUTCOMES).write(iter(LINES if name == "sft" else LINES[::-1]))
        evaluations[name] = artefact.finish()
    text = write_report(tmp_path, "training", evaluations, {"sft": 0, "revise": 12345}).read_text()
    assert (tmp_path / "training.png").stat().st_size > 1000
    assert "# training: 3 held-out problems" in text
    assert "| revise | 12,345" + " | 0.667 [0.208, 0.939]" * 3 + " |" in text
    assert "| revise | 1 | 1 | 1 | 0.500 [0.095, 0.905] | 1.000 [0.207, 1.000] |" in text
    assert "| sft | 4 | 40 | 0.667" in text
    assert "| revise | 4.00 | 0.667 [0.000, 1.000] | 0.000 [0.000, 0.000] |" in text
    none = "0.000 [0.000, 0.000]"
    assert "## revise against the others" in text
    assert f"| sft | {none} | 1 | {none} | 1 | {none} |" in text


def test_at_equal_tokens() -> None:
    """A checkpoint whose answers take twice the tokens has half of the samples."""
    short = [line("1", [FOUR], *[[FOUR]] * 4, tokens=40), line("2", [FOUR], *[[FIVE]] * 4, tokens=40)]
    long = [line("1", [FOUR], *[[FOUR]] * 4, tokens=80), line("2", [FOUR], *[[FOUR]] * 4, tokens=80)]
    rows = _at_equal_tokens({"a": Outcomes(short), "b": Outcomes(long)}, budget=40.0)
    assert [row[:2] for row in rows] == [["a", "4.00"], ["b", "2.00"]]
    assert [row[-1] for row in rows] == ["0.500 [0.000, 1.000]", "1.000 [1.000, 1.000]"]
    assert _against(Outcomes(long), Outcomes(short), 40.0)[-1] == "0.500 [0.000, 1.000]"


def test_a_vote_of_less_than_a_sample_is_none() -> None:
    """Its tokens would be more than the others'."""
    short = Outcomes([line("1", [FOUR], [FOUR], tokens=40)])
    long = Outcomes([line("1", [FOUR], [FOUR], tokens=200)])
    rows = _at_equal_tokens({"short": short, "long": long}, budget=40.0)
    assert rows[1] == ["long", "0.20", "too few", "too few"]
    assert _against(short, long, 40.0)[-1] == "too few"


def test_shares_have_an_interval_where_all_are_alike() -> None:
    """Wilson's, of 20 problems."""
    for values, low, high in (([False] * 20, 0.0, 0.161), ([True] * 20, 0.839, 1.0)):
        found = Measure.share(values)
        assert [found.low, found.high] == pytest.approx([low, high], abs=1e-3)
    assert math.isnan(Measure.share([]).value)


def test_who_is_compared() -> None:
    """The newest with each other one, on the same problems."""
    right, wrong = line("1", [FOUR], [FOUR]), line("1", [FIVE], [FIVE])
    first, _, last, p, _ = _against(Outcomes([right] * 8), Outcomes([wrong] * 8), 10.0)
    assert (first, last, p) == ("1.000 [1.000, 1.000]", "1.000 [1.000, 1.000]", "0.0078")


def test_a_checkpoint_whose_samples_were_all_cut(tmp_path: Path) -> None:
    artefact = Artefact.open(tmp_path / "a", "evaluate", {})
    artefact.log(OUTCOMES).write(iter([line("1", [CUT], [CUT], [CUT])]))
    assert "| a | nan [nan, nan] |" in write_report(tmp_path, "x", {"a": artefact.finish()}).read_text()


def test_other_problems_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="b was evaluated on other problems than a"):
        joined({"a": LINES, "b": LINES[:2]})


def test_attempts_of_a_stream() -> None:
    events: list[Event] = [
        Thought("3 + ", 0, "attempt"),
        Thought("other", 1, "attempt"),
        Thought("1 = 5", 0, "attempt"),
        Note({"kind": "verified", "confidence": 0.25, "refine": True}, 0),
        Thought("3 + 1 = 4", 0, "attempt"),
        Note({"kind": "verified", "confidence": 0.75, "refine": False}, 0),
        Note({"kind": "verified", "confidence": 0.5, "refine": False}, 2),
        Note({"kind": "result"}, 0),
        AnswerDelta("3 + 1 = 4"),
        Done("stop", None, None),
    ]
    assert told(events, 4) == {
        "tokens": 0,
        "branches": [
            [
                {"text": "3 + 1 = 5", "confidence": 0.25, "refine": True},
                {"text": "3 + 1 = 4", "confidence": 0.75, "refine": False},
            ],
            [{"text": "other", "confidence": None, "refine": False}],
            [{"text": "", "confidence": 0.5, "refine": False}],
            [{"text": "", "confidence": None, "refine": False}],  # Its first token was its end.
        ],
    }
