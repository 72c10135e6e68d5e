from pathlib import Path

import pytest

from benchmarks.packages import Package, PackageError
from benchmarks.suites import NAMES
from benchmarks.suites.listing import HERE, UNSEEN, listing


def nothing(self: Package) -> Path:
    raise PackageError(f"pip cannot download {self.name}")


def test_every_suite_is_listed_with_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDRAFT_CACHE", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    (tmp_path / "openai___gsm8k").mkdir()
    monkeypatch.setattr(Package, "fetched", nothing)
    found = {one.name: one for one in listing(check=False)}
    assert found.keys() >= set(NAMES)
    assert (found["gsm8k"].data, found["svamp"].data, found["human_eval"].data) == (HERE, UNSEEN, UNSEEN)
    assert all(one.asks and one.graded and one.needs for one in found.values())


def test_a_look_at_what_can_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDRAFT_CACHE", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(Package, "fetched", nothing)
    there = {"openai/gsm8k"}

    def info(self: object, name: str, timeout: float) -> None:
        if name not in there:
            raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    found = {one.name: one.data for one in listing(check=True)}
    assert found["gsm8k"] == "on the hub"
    assert found["svamp"] == "the hub does not have it, or is out of reach: ConnectionError"
    assert found["bfcl_simple"] == "pip cannot download bfcl_eval"
