from pathlib import Path

import pytest

from server.models import ModelError, ResolvedModel, check_served_name, default, resolution, resolve


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runs" / "My-Model.v2"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    return folder


def test_none_is_the_default(default_model: ResolvedModel) -> None:
    assert default_model.served_name == "smollm2-135m"
    assert default_model.chat_template == default.CHAT_TEMPLATE
    assert default_model.tool_call_parser == "hermes"
    assert default_model.local
    assert resolve("smollm2-135m") == default_model


def test_default_comes_from_the_hub_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "PACKAGE", "no-such-package")
    model = resolve(None)
    assert (model.path, model.served_name, model.local) == (default.HUB_ID, "smollm2-135m", False)
    assert model.chat_template == default.CHAT_TEMPLATE


@pytest.mark.parametrize("written", ["runs/My-Model.v2", "./runs/My-Model.v2/", "{tmp}/runs/My-Model.v2"])
def test_directory(checkpoint: Path, tmp_path: Path, written: str) -> None:
    model = resolve(written.format(tmp=tmp_path))
    assert model == ResolvedModel(str(checkpoint), "My-Model.v2", local=True)


def test_hub_id() -> None:
    assert resolve("Qwen/Qwen3-0.6B") == ResolvedModel("Qwen/Qwen3-0.6B", "Qwen3-0.6B", local=False)


@pytest.mark.parametrize("name", ["a@b", "a+b", " "])
def test_names_that_clients_could_not_write(name: str) -> None:
    with pytest.raises(ModelError, match="--served-model-name"):
        check_served_name(name)


def test_another_name_saves_a_directory_with_an_at_sign(checkpoint: Path) -> None:
    odd = checkpoint.rename(checkpoint.with_name("run@3"))
    with pytest.raises(ModelError, match="'run@3' can't be served by this name, for '@' parts a model"):
        resolve(str(odd))
    assert resolve(str(odd), served_name="run-3").served_name == "run-3"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("/nowhere/at/all", "is not a directory"),
        ("runs/My-Model.v2/config.json", "is not a directory"),
        ("a/b/c", "neither a directory here nor a Hugging Face id"),
        ("runs", "has no config.json"),
    ],
)
def test_what_is_no_model(checkpoint: Path, model: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        resolve(model)


def test_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ModelError, match="--enable-lora"):
        resolution.check_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "parser"),
    [
        ("chat_template.jinja", "{{ tools }}<tool_call>{}</tool_call>", "hermes"),
        ("tokenizer_config.json", '{"chat_template": "<tool_call>"}', "hermes"),
        ("chat_template.jinja", "<tool_call><function=f></tool_call>", None),
        ("chat_template.jinja", "no tools", None),
    ],
)
def test_tool_calls_of_a_directory(checkpoint: Path, file: str, text: str, parser: str | None) -> None:
    (checkpoint / file).write_text(text)
    assert resolve(str(checkpoint)).tool_call_parser == parser


def test_a_copy_of_the_default_model_calls_tools_too(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").write_text(default.CHAT_TEMPLATE.read_text())
    assert resolve(str(checkpoint)).tool_call_parser == default.TOOL_CALL_PARSER
