from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.journal import Journal
from benchmarks.loading.measuring import Load, Settings
from benchmarks.loading.report import LoadingReport
from benchmarks.loading.summary import Summary

SETTINGS = Settings(requests=3, loads=(Load("rate", 0.5), Load("users", 2)), strategies=("self_refine",))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "loading.json", asdict(SETTINGS))
    plain = Summary(4, ["status 429"], 10.0, 50, [1.0, 2.0, 3.0], [], [0.5, 0.6, 0.7])
    refined = Summary(3, [], 10.0, 90, [4.0, 5.0, 6.0], [0.5, 0.6, 0.7], [2.0, 3.0, 4.0], 0.25)
    journal.entries = {"plain/0.5 a second": asdict(plain), "self_refine/0.5 a second": asdict(refined)}
    journal.entries["plain/2 at a time"] = {"error": "vllm bench serve failed:\nno tokenizer"}
    journal.facts = {"date": "2026-01-01", "command": "c", "server": "redraft serve", "machine": {}}
    journal.complete = True
    return journal


def test_every_load_has_a_row(journal: Journal, tmp_path: Path) -> None:
    text = LoadingReport(journal).write(tmp_path).read_text()
    assert "| plain | 0.5 a second | 4 | 1: status 429 | 0.30 | 5 | 2, 2.90 | none | 0.60, 0.69 | 0 |" in text
    assert "| self_refine | 0.5 a second | 3 | 0 | 0.30 | 9 | 5, 5.90 | 0.60, 0.69 | 3, 3.90 | 0.25 |" in text
    assert "| plain | 2 at a time | vllm bench serve failed: no tokenizer |" in text
    assert "| self_refine | 2 at a time | not measured |" in text
    assert (tmp_path / "loading.png").stat().st_size > 10_000


def test_only_what_is_unfinished_or_a_smoke_test_is_marked(journal: Journal, tmp_path: Path) -> None:
    text = LoadingReport(journal).write(tmp_path).read_text()
    assert ("smoke test" in text, "Unfinished" in text) == (False, False)
    journal.settings["quick"], journal.complete = True, False
    text = LoadingReport(journal).write(tmp_path).read_text()
    assert ("smoke test" in text, "Unfinished" in text) == (True, True)
