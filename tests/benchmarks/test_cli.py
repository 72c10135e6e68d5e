import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import cli
from benchmarks.suites import NAMES

LATER = ("numpy", "matplotlib", "httpx", "pydantic", "jinja2", "torch")


def test_it_loads_nothing_that_takes_long() -> None:
    """For it is loaded by every `redraft --help`."""
    look = f"import sys, benchmarks.cli; print([name for name in {LATER} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_is_a_command_of_redraft() -> None:
    command = Path(sys.executable).with_name("redraft")
    done = subprocess.run([command, "bench", "--help"], capture_output=True, text=True, check=True)
    assert "compare" in done.stdout
    assert "suites" in done.stdout


def test_suites_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(cli.app, ["suites"])
    assert done.exit_code == 0, done.output
    for name in (*NAMES, "gym:TASK", "file:PATH", "--run-code"):
        assert name in done.output


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "benchmarks.suites.listing":
            raise ModuleNotFoundError("No module named 'reasoning_gym'", name="reasoning_gym")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    done = CliRunner().invoke(cli.app, ["suites"])
    assert done.exit_code == 1
    assert "reasoning_gym is not installed. pip install 'redraft[bench]'" in " ".join(done.output.split())
