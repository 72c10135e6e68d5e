"""What a report compares, and what it says of it."""

from pathlib import Path
from typing import Any

import pytest

from trainer.artefacts import Artefact, ArtefactError
from trainer.evaluate import OUTCOMES
from trainer.report import write_report

SETTINGS = {"model": "m", "revision": "1", "rounds": 1, "samples": 2, "top_p": 0.9, "grader": "math"}


@pytest.fixture
def asked(tmp_path: Path) -> Artefact:
    return Artefact.open(tmp_path / "problems", "problems", {"task": "gym:chain_sum"}).finish()


def evaluated(folder: Path, settings: dict[str, Any], asked: Artefact) -> Artefact:
    """Of one problem."""
    artefact = Artefact.open(folder, "evaluate", settings, {"problems": asked})
    branch = [{"text": "is 4", "confidence": 0.5, "refine": False, "right": True}]
    line = {"problem": "0/0", **{way: {"branches": [branch], "tokens": 9} for way in ("greedy", "sampled")}}
    artefact.log(OUTCOMES).write(iter([line]))
    return artefact.finish()


def test_checkpoints_are_compared_that_were_asked_alike(tmp_path: Path, asked: Artefact) -> None:
    """Whatever the checkpoints are."""
    first = evaluated(tmp_path / "a", SETTINGS, asked)
    local = {key: value for key, value in SETTINGS.items() if key != "revision"}
    other = evaluated(tmp_path / "b", {**local, "model": "other", "weights": "2"}, asked)
    text = write_report(tmp_path, "x", {"a": first, "b": other}).read_text()
    assert "| top_p | 0.9 |" in text
    assert not any(f"| {key} |" in text for key in ("model", "revision", "weights"))


def test_what_its_choice_is_worth(tmp_path: Path, asked: Artefact) -> None:
    one = evaluated(tmp_path / "a", SETTINGS, asked)
    always = Artefact.open(tmp_path / "always", "evaluate", {**SETTINGS, "threshold": 1.0, "samples": 0}, {})
    wrong, right = ({"text": "it", "confidence": c, "refine": True, "right": r} for c, r in ((0.6, False), (0.9, True)))
    always.log(OUTCOMES).write(iter([{"problem": "0/0", "greedy": {"branches": [[wrong, right]], "tokens": 9}}]))
    found = {"a": one, "b": one}
    text = write_report(tmp_path, "x", found, always=always.finish()).read_text()
    rows = [line.split(" | ")[:3] for line in text.splitlines() if "P(end) <" in line or line.startswith("| always")]
    assert [(rule, last[:5], again[:5]) for rule, last, again in rows] == [
        ("| where P(end) < 0.25", "0.000", "0.000"),
        ("| where P(end) < 0.5", "0.000", "0.000"),
        ("| where P(end) < 0.75", "1.000", "1.000"),
        ("| where P(end) < 0.9", "1.000", "1.000"),
        ("| always", "1.000", "1.000"),
    ]
    assert "| as it chooses | 1.000" in text
    assert "P(end) <" not in write_report(tmp_path, "x", found).read_text()


def test_what_was_changed_or_is_not_complete(tmp_path: Path, asked: Artefact) -> None:
    one, other = (evaluated(tmp_path / name, SETTINGS, asked) for name in ("a", "b"))
    other.log(OUTCOMES).add({"problem": "0/1"})
    with pytest.raises(ArtefactError, match="b was changed since it was made"):
        write_report(tmp_path, "x", {"a": one, "b": other})
    begun = Artefact.open(tmp_path / "c", "evaluate", SETTINGS, {"problems": asked})
    with pytest.raises(ArtefactError, match=r"the evaluation of c, .*, is not complete"):
        write_report(tmp_path, "x", {"a": one, "c": begun})


def test_a_report_says_what_it_is_of(tmp_path: Path, asked: Artefact) -> None:
    fit = {"learning_rate": 1e-5, "epochs": 2.0, "batch": 16, "seed": 3}
    made = Artefact.open(tmp_path / "fit", "fit", {"fit": fit}).finish(rows=1400, tokens=250000)
    settings = {key: SETTINGS[key] for key in ("rounds", "samples", "top_p", "grader")}
    one = Artefact.open(tmp_path / "a", "evaluate", settings, {"problems": asked, "model": made})
    evaluated(tmp_path / "b", SETTINGS, asked).log(OUTCOMES).path.rename(one.folder / OUTCOMES)
    text = write_report(tmp_path, "x", {"a": one.finish(lost=["rows of fit"])}).read_text()
    assert "| task | gym:chain_sum |" in text
    assert "| packages | redraft " in text
    assert (
        "| a | 1,400 rows, 250,000 tokens, learning_rate 1e-05, epochs 2, batch 16, seed 3, what it learnt from is "
        "partly lost |" in text
    )


def test_a_report_wants_samples(tmp_path: Path, asked: Artefact) -> None:
    none = Artefact.open(tmp_path / "none", "evaluate", SETTINGS, {"problems": asked})
    branch = [{"text": "is 4", "confidence": 0.5, "refine": False, "right": True}]
    none.log(OUTCOMES).write(iter([{"problem": "0/0", "greedy": {"branches": [branch], "tokens": 9}}]))
    with pytest.raises(ArtefactError, match="mine was evaluated without samples"):
        write_report(tmp_path, "x", {"mine": none.finish()})


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"top_p": 1.0}, r"top_p is 1\.0, not 0\.9$"),
        ({"grader": "exact", "rounds": 2}, "rounds is 2, not 1; grader is 'exact', not 'math'$"),
        ({"flags": ["--seed", "1"]}, r"flags is \['--seed', '1'\], not None$"),
    ],
)
def test_others_are_not(tmp_path: Path, asked: Artefact, changed: dict[str, Any], differs: str) -> None:
    one, other = (evaluated(tmp_path / name, s, asked) for name, s in (("a", SETTINGS), ("b", SETTINGS | changed)))
    with pytest.raises(ArtefactError, match=f"^b was evaluated otherwise than a: {differs}"):
        write_report(tmp_path, "x", {"a": one, "b": other})


def test_problems_of_the_same_ids_are_not_the_same(tmp_path: Path, asked: Artefact) -> None:
    others = Artefact.open(tmp_path / "others", "problems", {"task": "gym:countdown"}).finish()
    one, other = (evaluated(tmp_path / name, SETTINGS, of) for name, of in (("a", asked), ("b", others)))
    with pytest.raises(ArtefactError, match=f"problems is '{others.digest}', not '{asked.digest}'$"):
        write_report(tmp_path, "x", {"a": one, "b": other})


def test_tokens_of_training_that_are_not_known(tmp_path: Path, asked: Artefact) -> None:
    one = evaluated(tmp_path / "a", SETTINGS, asked)
    found = {"a": one, "b": one}
    told = write_report(tmp_path, "x", found, {"a": 0}).read_text()
    assert "Tokens of training are" in told
    assert "| checkpoint | trained on | first answer |" in told
    assert "| a | 0 | 1.000" in told
    assert "| b | unknown | 1.000" in told
    text = write_report(tmp_path, "x", found).read_text()
    assert "| checkpoint | first answer |" in text
    assert "Tokens of training" not in text
    assert "trained on" not in text
