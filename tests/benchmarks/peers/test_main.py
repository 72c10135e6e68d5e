"""That a comparison goes on where it was, and keeps what fails."""

from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from benchmarks.journal import Journal
from benchmarks.load import LoadError
from benchmarks.peers import __main__ as main
from benchmarks.peers.arms import DIRECT
from benchmarks.peers.costs import Step
from benchmarks.peers.gateways import Fleet
from clients.process import ServerError


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> None:
        return

    monkeypatch.setattr("benchmarks.servers.settled", nothing)


async def test_what_was_measured_is_not_measured_again_and_failures_are_kept(tmp_path: Path) -> None:
    taken: list[str] = []

    async def take(key: str) -> dict[str, Any]:
        taken.append(key)
        if key == "b":
            raise LoadError("status 500")
        return {"seconds": 1.0}

    steps = [Step(key, DIRECT, partial(take, key)) for key in "abc"]
    fleet = Fleet({DIRECT.gateway: "http://127.0.0.1:1"})
    path = tmp_path / "peers.json"
    journal = Journal.open(path, {"seed": 1})
    await main.measure(journal, steps[:2], fleet, Progress(disable=True))
    again = Journal.open(path, {"seed": 1})
    await main.measure(again, steps, fleet, Progress(disable=True))
    assert taken == ["a", "b", "c"]
    assert again.entries == {"a": {"seconds": 1.0}, "b": {"error": "status 500"}, "c": {"seconds": 1.0}}


async def test_an_engine_that_ended_ends_the_measurement(tmp_path: Path) -> None:
    engine = Mock(counters=AsyncMock(return_value={}))

    async def take() -> dict[str, Any]:
        engine.check.side_effect = ServerError("it ended")
        raise LoadError("no connection")

    fleet = Fleet({DIRECT.gateway: "http://127.0.0.1:1"}, {DIRECT.gateway: engine})
    journal = Journal(tmp_path / "peers.json", {})
    with pytest.raises(ServerError):
        await main.measure(journal, [Step("a", DIRECT, take)], fleet, Progress(disable=True))
    assert journal.entries == {}


async def test_a_gateway_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    async def take() -> dict[str, Any]:
        raise AssertionError

    journal = Journal(tmp_path / "peers.json", {})
    await main.measure(journal, [Step("a", DIRECT, take)], Fleet(), Progress(disable=True))
    assert journal.entries == {}


def test_bad_input_is_told_in_one_line(tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(main.main)
    for arguments in (["--task", "gym:nothing"], ["--report"]):
        done = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path)])
        assert done.exit_code == 2
        assert "Traceback" not in done.output
