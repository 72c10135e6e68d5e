"""The fake server in a thread."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from tests.clients.fake_server import app


@pytest.fixture(scope="session")
def fake_url() -> Iterator[str]:
    """Base URL of the fake server, /v1 included."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def requests() -> list[dict[str, Any]]:
    """The chat requests that the fake server got in this test."""
    app.state.requests.clear()
    received: list[dict[str, Any]] = app.state.requests
    return received


@pytest.fixture(autouse=True)
def no_key_or_url_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own settings out."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
