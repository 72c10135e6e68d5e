"""What a folder of adapters may hold."""

from pathlib import Path

import pytest

from server.models.adapters import find_adapters, rank_of
from server.models.errors import ModelError


def adapter(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "adapter_config.json").write_text("{}")
    return folder / name


def test_each_folder_is_one(tmp_path: Path) -> None:
    two, one = adapter(tmp_path, "two-2.0"), adapter(tmp_path, "One_1")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".git").mkdir()
    assert find_adapters(tmp_path) == {"One_1": one, "two-2.0": two}


@pytest.mark.parametrize("name", ["a@b", "a b", "a+b", "-a", "é"])
def test_a_name_that_no_request_can_ask_for(tmp_path: Path, name: str) -> None:
    adapter(tmp_path, name)
    with pytest.raises(ModelError, match="name"):
        find_adapters(tmp_path)


def test_another_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        find_adapters(tmp_path)
    with pytest.raises(ModelError, match="no folder"):
        find_adapters(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"r": "8"}', '{"r": 0}', '{"r": null}'])
def test_a_rank_that_is_none(tmp_path: Path, text: str) -> None:
    config = adapter(tmp_path, "one") / "adapter_config.json"
    config.write_text('{"r": 12}')
    assert rank_of(config.parent) == 12
    config.write_text(text)
    with pytest.raises(ModelError, match="rank r"):
        rank_of(config.parent)
