import json
from pathlib import Path

import pytest

from tools import setup


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two pins, a machine that lacks nothing, and a pip that only writes down what it was asked."""
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "cpu.lock").write_text("# header\n\ntorch==2.13.0+cpu\nsetuptools==78.1.1\n")
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup, "STAMP", tmp_path / ".venv" / "setup.json")
    monkeypatch.setattr(setup, "LOG", tmp_path / ".venv" / "setup.log")
    monkeypatch.setattr(setup, "check_machine", lambda device: None)
    monkeypatch.setattr(setup, "has_gpu", lambda: False)
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    monkeypatch.setattr(setup, "make_venv", lambda: (tmp_path / ".venv").mkdir(exist_ok=True))
    return tmp_path


@pytest.fixture
def installed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    def run_pip(what: str, command: list[str]) -> bool:
        calls.append(what)
        return True

    monkeypatch.setattr(setup, "run_pip", run_pip)
    return calls


@pytest.mark.parametrize("told", [True, False])
def test_packages_are_compiled_where_python_would_not(
    told: bool, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[bool] = []
    monkeypatch.setattr("sys.dont_write_bytecode", told)
    monkeypatch.setattr(setup, "compile_packages", lambda: compiled.append(True))
    assert setup.main([]) == 0
    assert compiled == [True] * told


def test_second_run_installs_nothing(installed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert setup.main([]) == 0
    assert installed == ["torch and setuptools", "everything else", "redraft"]
    assert setup.main([]) == 0
    assert len(installed) == 3
    assert capsys.readouterr().out.endswith(".venv is up to date (cpu).\n")


@pytest.mark.parametrize("file", ["pyproject.toml", "requirements/cpu.lock"])
def test_change_installs_again(checkout: Path, installed: list[str], file: str) -> None:
    setup.main([])
    with (checkout / file).open("a") as changed:
        changed.write("extra==1\n")
    setup.main([])
    assert len(installed) == 6


def test_failure_leaves_no_stamp(
    checkout: Path, installed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup.main([])
    commands: list[list[str]] = []

    def fail(what: str, command: list[str]) -> bool:
        commands.append(command)
        setup.LOG.write_text("Collecting torch\nERROR: No matching distribution found for torch\n")
        return False

    monkeypatch.setattr(setup, "run_pip", fail)
    (checkout / "pyproject.toml").write_text("changed")
    assert setup.main([]) == 1
    assert not setup.STAMP.exists()
    error = capsys.readouterr().err
    assert "No matching distribution found for torch" in error
    assert "run make setup again" in error
    assert [setup.TORCH_CPU_INDEX in command for command in commands] == [False, True]


def test_c_extensions_are_left_out_without_a_compiler(
    checkout: Path, installed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (checkout / "requirements" / "cpu.lock").open("a") as lock:
        lock.write("pycosat==0.6.6\n")
    monkeypatch.setattr(setup, "has_c_compiler", lambda: False)
    assert setup.main([]) == 0
    assert "Left out for want of a C compiler: pycosat." in capsys.readouterr().out
    monkeypatch.setattr(setup, "has_c_compiler", lambda: True)
    setup.main([])
    assert len(installed) == 6


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "SHARED_LIBRARIES", {"libnothing.so.9": "libnothing9"})
    with pytest.raises(setup.SetupError, match="apt-get install libnothing9, then make setup"):
        setup.check_machine("cpu")


def test_changing_the_device_starts_afresh(checkout: Path, installed: list[str]) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "old").touch()
    setup.STAMP.write_text(json.dumps({"device": "cuda", "digest": "x"}))
    assert setup.main(["--device", "cpu"]) == 0
    assert not (checkout / ".venv" / "old").exists()


@pytest.mark.parametrize(
    ("line", "doing"),
    [
        ("Collecting torch==2.13.0+cpu", "1 found, torch==2.13.0+cpu"),
        ("  Downloading torch-2.13.0.whl (180.1 MB)", "0 found, downloading torch-2.13.0.whl (180.1 MB)"),
        ("  Downloading https://host/a/torch-2.13.0.whl (9 MB)", "0 found, downloading torch-2.13.0.whl (9 MB)"),
        ("  Downloading torch-2.13.0.whl.metadata (2 kB)", "starting"),
        ("  Building wheel for zss (pyproject.toml): started", "building zss"),
        ("anything else", "starting"),
    ],
)
def test_progress_reads_pip(line: str, doing: str) -> None:
    progress = setup.Progress("everything")
    progress.read(line)
    assert progress.doing == doing
