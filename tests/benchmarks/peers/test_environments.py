import subprocess
import zipfile
from pathlib import Path

import pytest

from benchmarks.peers.environments import ENVIRONMENTS, Environment, PeerError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REDRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "peers"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock with one package that has a command, in a wheel of this machine."""
    wheel = tmp_path / "greeter-1.0-py3-none-any.whl"
    info = "greeter-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("greeter.py", "def main():\n    print('hello')\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/entry_points.txt", "[console_scripts]\ngreet = greeter:main\n")
        file.writestr(f"{info}/RECORD", "")
    lock = tmp_path / "greeter.lock"
    lock.write_text(f"greeter @ {wheel.as_uri()}\n")
    return lock


def test_an_environment_is_made_once_and_runs(lock: Path, cache: Path) -> None:
    environment = Environment("greeter", lock)
    script = environment.command("greet")
    assert subprocess.run([script], capture_output=True, text=True, check=True).stdout == "hello\n"
    # It is one of its own: nothing of ours is to be seen in it.
    python = environment.folder / "bin" / "python"
    assert subprocess.run([python, "-c", "import httpx"], capture_output=True, check=False).returncode == 1
    (environment.folder / "mark").touch()
    assert environment.command("greet") == script
    assert [path.name for path in environment.folder.glob("mark")] == ["mark"]
    assert list(cache.iterdir()) == [environment.folder]


def test_one_that_was_cut_off_is_made_anew(lock: Path) -> None:
    environment = Environment("greeter", lock)
    environment.folder.mkdir(parents=True)
    (environment.folder / "half").touch()
    assert environment.command("greet").exists()
    assert not (environment.folder / "half").exists()


def test_what_cannot_be_installed_is_told_in_pips_words(tmp_path: Path) -> None:
    lock = tmp_path / "nothing.lock"
    lock.write_text(f"nothing @ {(tmp_path / 'nothing-1.0-py3-none-any.whl').as_uri()}\n")
    environment = Environment("nothing", lock)
    with pytest.raises(PeerError, match=r"pip cannot install nothing: .*nothing-1\.0"):
        environment.command("nothing")
    assert not (environment.folder / "complete").exists()


def test_other_versions_are_another_environment(lock: Path) -> None:
    environment = Environment("greeter", lock)
    first = environment.folder
    lock.write_text(lock.read_text() + "# and more\n")
    assert environment.folder != first


@pytest.mark.parametrize(("name", "version"), [("optillm", "0.4.0"), ("its_hub", "1.2.0")])
def test_the_peers_are_locked_to_one_version_of_everything(name: str, version: str) -> None:
    lines = ENVIRONMENTS[name].lock.read_text().splitlines()
    assert f"{name}=={version}" in lines
    assert all(line.count("==") == 1 for line in lines)
