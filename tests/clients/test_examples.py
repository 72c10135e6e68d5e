"""Every example runs as it stands against a server that speaks the wire format."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples"
SAYS = {
    "openai_sync": "It is 42.",
    "openai_async_stream": "It is 42.",
    "openai_responses": "Rome.",
    "openai_tools": 'get_weather {"city": "Paris"}',
    "langchain_chat": "It is 42.",
}


def test_all_examples_are_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_example(name: str, fake_url: str) -> None:
    if name == "langchain_chat":
        pytest.importorskip("langchain_openai")
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 30
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "OPENAI_BASE_URL": fake_url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
