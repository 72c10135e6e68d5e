from pathlib import Path

import pytest

from server.models.cache import CHECKPOINT_FILES, cache_dir, is_complete


def test_own_variable_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("REDRAFT_CACHE", "~/own")
    assert cache_dir() == Path.home() / "own"


def test_then_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDRAFT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/redraft")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_dir() == Path.home() / ".cache" / "redraft"


def test_complete_means_every_file(tmp_path: Path) -> None:
    for name in CHECKPOINT_FILES:
        assert not is_complete(tmp_path)
        (tmp_path / name).touch()
    assert is_complete(tmp_path)
