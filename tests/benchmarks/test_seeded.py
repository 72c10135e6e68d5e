from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.journal import Journal
from benchmarks.seeded import Settings, report, same_share


def entry(texts: list[str | None], alive: bool = True) -> dict[str, Any]:
    status = [500 if text is None else 200 for text in texts]
    made = {"texts": texts, "status": status, "took": [1.0] * len(texts), "seconds": 2.0}
    return {**made, "prompt_tokens": [900] * status.count(200), "cached_tokens": 0, "alive": alive}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "seeded.json", asdict(Settings(requests=4)))
    journal.facts = {"date": "2026-01-01", "command": "python -m benchmarks.seeded", "machine": {}, "server": "redraft"}
    journal.entries = {
        "first": entry(["a", "b", "c", "d"]),
        "second": entry(["a", "b", "c", "x"]),
        "cached": entry(["a", "b", "c", "d"]),
        "vllm": entry([None] * 4, alive=False),
    }
    return journal


def test_texts_are_compared_request_by_request() -> None:
    assert same_share(["a", "b", None, None], ["a", "x", None, "d"]) == 0.25


def test_the_report_has_every_run(journal: Journal, tmp_path: Path) -> None:
    text = report(journal, tmp_path).read_text()
    assert "All 6 aims are met." in text
    assert "| redraft | 4 of 4 | yes |  | 0% | 2 |" in text
    assert "| redraft again, prompts computed again | 4 of 4 | yes | 75% | 0% | 2 |" in text
    assert "| vllm serve alone | 0 of 4 | no |  | 0% | 2 |" in text
    assert (tmp_path / "seeded.png").exists()


def test_an_engine_that_died_misses_its_aim(journal: Journal, tmp_path: Path) -> None:
    journal.entries["second"] = entry(["a", None, None, None], alive=False)
    del journal.entries["vllm"]
    text = report(journal, tmp_path).read_text()
    assert "2 of 6 aims are missed." in text
    assert "answers of 200: 1, the aim is ≥ 4." in text
