"""A server that the run starts itself, here one that thinks nothing."""

import sys
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from benchmarks.compare import serving
from benchmarks.compare.errors import CompareError
from benchmarks.compare.settings import Settings
from clients.process import ServerProcess

FAKE = Path(__file__).parents[2] / "clients" / "fake_server.py"


def settings(**more: object) -> Settings:
    return Settings.model_validate({"suite": "s", "arms": [{"label": "a"}], "serve": "some/model", **more})


def starting(mode: str, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Has the fake server started instead, with the same host and port; the commands."""
    commands = []

    def process(command: list[str]) -> ServerProcess:
        commands.append(command)
        at = command.index("--host")
        return ServerProcess([sys.executable, str(FAKE), mode, "serve", *command[at : at + 4]])

    monkeypatch.setattr(serving, "ServerProcess", process)
    return commands


def test_it_is_there_for_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = starting("well", monkeypatch)
    with serving.served(settings(serve_flags=["--max-model-len", "512"]), Console(quiet=True)) as url:
        assert url is not None
        assert httpx.get(f"{url}/v1/models").status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/v1/models")
    (command,) = commands
    assert command[1:4] == ["-m", "server.cli", "serve"]
    assert " ".join(command).endswith("--model some/model --served-model-name model --max-model-len 512")


def test_one_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    starting("dead", monkeypatch)
    with (
        pytest.raises(CompareError, match=r"some/model: the server ended(?s:.*)no space left for \[the\] model"),
        serving.served(settings(), Console(quiet=True)),
    ):
        pass


def test_an_endpoint_that_is_there_is_used() -> None:
    with serving.served(settings(serve=None, url="http://x", model="m"), Console(quiet=True)) as url:
        assert url == "http://x"
