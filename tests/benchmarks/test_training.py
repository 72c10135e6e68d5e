"""What the measurement of trainings counts, and what it makes of it."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.journal import Journal
from benchmarks.training import KINDS, OURS, REFINE, THEIRS, Settings, pair_of, ratios, report, tokens_of

ROW = {"kind": "gold", "prompt": [1, 2, 3], "chosen": [10, 11, 9]}


def test_pairs_are_those_of_the_first_stage() -> None:
    assert pair_of(ROW, right=True) == {"prompt": [1, 2, 3], "chosen": [10, 11, 9], "rejected": [10, 11, REFINE, 9]}
    assert pair_of(ROW, right=False) == {"prompt": [1, 2, 3, 10, 11], "chosen": [REFINE, 9], "rejected": [9]}


def test_tokens_are_those_of_all_sequences(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps(ROW) + "\n")
    assert tokens_of(tmp_path / "rows.jsonl") == 12
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair_of(ROW, right=True)) + "\n")
    assert tokens_of(tmp_path / "pairs.jsonl") == 6 + 7


def test_the_report_says_what_misses_its_aim(tmp_path: Path) -> None:
    """Ratios are of the same round, so a machine that slows down changes none."""
    journal = Journal(tmp_path / "training.json", asdict(Settings()))
    speeds = {("SFT", OURS): 130.0, ("SFT", THEIRS): 100.0, ("pairs", OURS): 45.0, ("pairs", THEIRS): 50.0}
    for round_, factor in (("00", 1.0), ("01", 0.4)):
        for (kind, arm), speed in speeds.items():
            entry = {"training": speed * factor, "process": speed * factor / 2, "first_loss": 1.25}
            journal.entries[f"{round_}/{kind}/{arm}"] = entry
    found = ratios(journal)
    assert {name.partition(",")[0] for name in found} == set(KINDS)
    assert found["SFT, training"].value == pytest.approx(1.3)
    assert found["pairs, process"].low == pytest.approx(found["pairs, process"].high) == pytest.approx(0.9)
    journal.facts |= {"date": "", "command": "", "machine": {}}
    text = report(journal, tmp_path).read_text()
    assert "1 of 2 aims are missed." in text
    assert "- pairs, training: 0.90, the aim is ≥ 1." in text
    assert "| SFT | training | 91 (52..130) | 70 (40..100) | 1.30 [1.30, 1.30] |" in text
    assert (tmp_path / "training.png").stat().st_size > 1000
