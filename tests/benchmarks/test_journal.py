from pathlib import Path

import pytest

from benchmarks.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "results.json"


def test_an_unfinished_measurement_goes_on(path: Path) -> None:
    Journal.open(path, {"seed": 1, "sizes": (1, 2)}).add("plain/00", {"seconds": 1.5})
    assert Journal.open(path, {"seed": 1, "sizes": (1, 2)}).entries == {"plain/00": {"seconds": 1.5}}


def test_other_settings_begin_anew(path: Path) -> None:
    Journal.open(path, {"seed": 1}).add("plain/00", 1)
    assert Journal.open(path, {"seed": 2}).entries == {}


def test_a_finished_measurement_begins_anew_but_can_be_read(path: Path) -> None:
    journal = Journal.open(path, {"seed": 1})
    journal.add("plain/00", 1)
    journal.complete = True
    journal.save()
    assert Journal.open(path, {"seed": 1}).entries == {}
    assert Journal.read(path).entries == {"plain/00": 1}


def test_entries_are_found_by_the_parts_of_their_keys(path: Path) -> None:
    journal = Journal(path, {})
    for key in ("plain/16/01", "plain/16/00", "plain/1/00", "samples/16/00"):
        journal.add(key, key)
    assert journal.under("plain", "16") == ["plain/16/00", "plain/16/01"]
    assert journal.under("plain", "1") == ["plain/1/00"]


def test_saving_leaves_nothing_beside_the_file(path: Path) -> None:
    Journal(path, {}).add("a", 1)
    assert list(path.parent.iterdir()) == [path]
