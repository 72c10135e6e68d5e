from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare.errors import CompareError
from benchmarks.compare.settings import Settings, settings_of

ROOT = Path(__file__).parents[3]
TEXT = """
suite = "gym:chain_sum"
count = 3
temperature = 1
model = "m"
url = "http://127.0.0.1:1"
serve_flags = ["--max-model-len", "512"]

[[arms]]
label = "plain"
answers = 4

[[arms]]
label = "refine"
strategy = "self_refine"
params = { rounds = 1 }
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "a.toml"
    path.write_text(text)
    return path


def test_options_go_over_a_file(tmp_path: Path) -> None:
    found = settings_of(written(tmp_path, TEXT), {"count": 5, "seed": None}, None)
    assert (found.count, found.seed, found.temperature) == (5, 0, 1)
    assert [arm.label for arm in found.arms] == ["plain", "refine"]
    assert [found.answers_of(arm) for arm in found.arms] == [4, 1]
    assert found.serve_flags == ("--max-model-len", "512")
    assert [arm.label for arm in settings_of(written(tmp_path, TEXT), {}, ["other="]).arms] == ["other"]


def test_all_of_it_from_options() -> None:
    found = settings_of(None, {"suite": "gsm8k", "serve": "models/some"}, ["plain=", 'own=:{"model": "n"}'])
    assert [found.model_of(arm) for arm in found.arms] == ["some", "n"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("", r"a\.toml: suite: Field required; arms: Field required"),
        ('suite = "s"\nmodel = "m"\n[[arms]]\nlabel = "a"', "give the url"),
        ('suite = "s"\nurl = "u"\n[[arms]]\nlabel = "a"', "give the model"),
        ('suite = "s"\nurl = "u"\nserve = "m"\n[[arms]]\nlabel = "a"', "not both"),
        (TEXT.replace('"refine"', '"plain"'), "two arms are called plain"),
        (TEXT.replace("count", "counts"), "counts: Extra"),
        (TEXT.replace("rounds", "[rounds"), r"a\.toml"),
        (TEXT.replace("answers = 4", "answer = 4"), r"arms\.0\.answer: Extra"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, changed: str, told: str) -> None:
    with pytest.raises(CompareError, match=told):
        settings_of(written(tmp_path, changed), {}, None)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CompareError, match="No such file"):
        settings_of(tmp_path / "b.toml", {}, None)


def test_the_plain_arm_is_the_one_with_most_answers() -> None:
    def plain(*arms: dict[str, Any]) -> str | None:
        found = Settings.model_validate({"suite": "s", "url": "u", "model": "m", "arms": arms}).plain
        return None if found is None else found.label

    assert plain({"label": "a", "strategy": "s"}, {"label": "b"}, {"label": "c", "answers": 4}) == "c"
    assert plain({"label": "a", "sampling": {"temperature": 0}}, {"label": "b", "base_url": "x"}) is None


@pytest.mark.parametrize("name", ["quick", "whole"])
def test_settings_of_the_makefile(name: str) -> None:
    found = settings_of(ROOT / "benchmarks" / f"{name}.toml", {"serve": "smollm2-135m"}, None)
    assert found.plain is not None
