from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode
from typer.testing import CliRunner

from server.cli import app as redraft
from server.flags import with_setting_flags
from server.settings import Settings


class Toy(BaseSettings):
    size: int = Field(3, description="How large.")
    ratio: float | None = Field(None, description="How much.")
    loud_voice: bool = Field(False, description="How loud.")
    key: Annotated[tuple[SecretStr, ...], NoDecode] = Field((), description="Which.")
    kind: Literal["a", "b"] = Field("a", description="What.")


@pytest.fixture
def given() -> dict[str, Any]:
    return {}


@pytest.fixture
def app(given: dict[str, Any]) -> typer.Typer:
    app = typer.Typer()

    @app.command(context_settings={"allow_extra_args": True})
    @with_setting_flags(Toy)
    def command(context: typer.Context, **flags: object) -> None:
        given.update(flags, rest=context.args)

    return app


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--size", "0"], {"size": 0}),
        (["--ratio", "0.0"], {"ratio": 0.0}),
        (["--loud-voice"], {"loud_voice": True}),
        (["--no-loud-voice"], {"loud_voice": False}),
        (["--key", "x", "--key", "y"], {"key": ["x", "y"]}),
        (["--kind", "b"], {"kind": "b"}),
        (["--size", "1", "--", "--other", "2"], {"size": 1, "rest": ["--other", "2"]}),
    ],
    ids=str,
)
def test_only_given_flags_are_passed_on(
    app: typer.Typer, given: dict[str, Any], arguments: list[str], expected: dict[str, Any]
) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert given == {"rest": [], **expected}


@pytest.mark.parametrize("arguments", [["--size", "x"], ["--kind", "c"], ["--nonsense"]], ids=str)
def test_wrong_flags_are_refused(app: typer.Typer, arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_help_has_every_setting_with_its_default() -> None:
    text = " ".join(CliRunner().invoke(redraft, ["serve", "--help"], env={"COLUMNS": "200"}).output.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}"[:30] in text
        assert (field.description or "")[:20] in text
    assert "(default: 8000)" in text  # In brackets, rich would take it for markup.


def test_a_wrong_setting_names_its_flag() -> None:
    result = CliRunner().invoke(redraft, ["serve", "--port", "70000"])
    assert result.exit_code == 2
    assert "--port" in result.output


@pytest.mark.parametrize(
    ("content", "said"),
    [("prot = 1\n", "redraft.toml: prot"), ("port = = 1\n", "redraft.toml is no TOML"), ("port = -1\n", "--port")],
)
def test_a_wrong_file_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("redraft.toml").write_text(content)
    result = CliRunner().invoke(redraft, ["serve"])
    assert result.exit_code == 2
    assert said in result.output


def test_a_missing_vllm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'vllm'", name="vllm")

    monkeypatch.setattr("server.serving.serve", missing)
    result = CliRunner().invoke(redraft, ["serve"])
    assert result.exit_code == 1
    assert "redraft[cpu]" in result.output
