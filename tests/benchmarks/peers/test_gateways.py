"""How peers are started and set up, with programs of this environment in their place."""

import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from benchmarks.peers import gateways
from benchmarks.peers.arms import ARMS, ITS_HUB, OPTILLM
from benchmarks.peers.environments import Environment, PeerError
from benchmarks.peers.gateways import Fleet, Peer, configure_its_hub, its_hub, optillm
from benchmarks.servers import MODEL
from clients.process import ServerError, free_port
from tests.benchmarks.peers.fake_engine import serving


@pytest.fixture(autouse=True)
def nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Environment, "command", lambda self, script: Path("/environment/bin", script))


def test_optillm_is_put_in_front_of_its_upstream() -> None:
    peer = optillm("http://127.0.0.1:1")
    assert peer.command().startswith("/environment/bin/optillm --base-url http://127.0.0.1:1/v1 --port ")
    # With a key for itself that is not taken for one of OpenAI, and without those that lead elsewhere.
    assert not peer._env["OPENAI_API_KEY"].startswith("sk-")
    assert peer._env["CEREBRAS_API_KEY"] == peer._env["OPTILLM_API_KEY"] == peer._env["HTTPS_PROXY"] == ""


def test_its_hub_is_started_alone() -> None:
    assert its_hub("http://127.0.0.1:1").command().startswith("/environment/bin/its-iaas --port ")


def test_its_hub_is_told_what_it_stands_in_front_of() -> None:
    told: list[Any] = []
    app = FastAPI()

    @app.post("/configure")
    async def configure(request: Request) -> Response:
        told.append(await request.json())
        return JSONResponse({}, 200 if len(told) == 1 else 400)

    with serving(app) as url:
        configure_its_hub(url, "http://127.0.0.1:1")
        assert told[0]["endpoint"] == "http://127.0.0.1:1/v1"
        assert (told[0]["model"], told[0]["alg"]) == (MODEL, "self-consistency")
        with pytest.raises(PeerError, match="status 400"):
            configure_its_hub(url, "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("text", "vote"),
    [("12 + 7.\nThe answer is 19.", "19"), ("the answer is: 19", "19"), ("The answer is 1,900.5.", "1,900.5")],
)
def test_its_hub_votes_on_the_answers_that_the_suites_ask_for(text: str, vote: str) -> None:
    found = re.search(gateways.VOTED, text)
    assert found is not None
    assert found[1] == vote


def test_techniques_are_prefixes_of_the_model_and_settings_are_keys() -> None:
    bodies = {arm.name: arm.body("hello", 5) for arm in ARMS}
    assert bodies["OptiLLM: majority_voting"]["model"] == f"majority_voting-{MODEL}"
    assert bodies["OptiLLM: majority_voting"]["k"] == 5
    assert {body["model"] for name, body in bodies.items() if not name.startswith(OPTILLM)} == {MODEL}
    assert bodies["its_hub: self-consistency"]["budget"] == 5
    assert {body["max_tokens"] for body in bodies.values()} == {5}


def test_a_peer_that_ends_is_reported_with_its_error() -> None:
    fleet = Fleet()
    peer = Peer(Path(sys.executable), ["-c", "raise SystemExit(3)"], free_port(), "/health")
    with ExitStack() as stack, pytest.raises(ServerError, match="exit status 3"):
        gateways._start_peer(fleet, ITS_HUB, peer, stack)
    assert fleet.urls == {}
    peer.log_path.unlink()


def test_a_peer_that_answers_is_up_until_the_stack_is_left() -> None:
    port = free_port()
    fleet = Fleet()
    peer = Peer(Path(sys.executable), ["-m", "http.server", "--bind", "127.0.0.1", str(port)], port, "/")
    with ExitStack() as stack:
        gateways._start_peer(fleet, ITS_HUB, peer, stack)
        assert fleet.urls == {ITS_HUB: f"http://127.0.0.1:{port}"}
        peer.check()
    with pytest.raises(AssertionError):
        peer.check()
