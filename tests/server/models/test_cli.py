from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.models import ModelError, ResolvedModel, cli

runner = CliRunner()


def test_list(default_model: ResolvedModel) -> None:
    result = runner.invoke(cli.app, ["list"])
    assert result.exit_code == 0
    assert "smollm2-135m" in result.stdout
    assert "273 MB" in result.stdout


def test_prepare_prints_the_path(default_model: ResolvedModel) -> None:
    result = runner.invoke(cli.app, ["prepare"])
    assert result.exit_code == 0
    assert result.stdout.strip() == default_model.path


def test_prepare_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(on_step: object) -> None:
        raise ModelError("disk [full]")

    monkeypatch.setattr(cli, "prepare_default", fail)
    result = runner.invoke(cli.app, ["prepare"])
    assert result.exit_code == 1
    assert "disk [full]" in result.stderr
