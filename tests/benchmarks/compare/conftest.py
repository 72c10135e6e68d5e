"""A gateway, a suite in a file, and settings for both."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import engine
from benchmarks.compare.settings import Settings
from tests.benchmarks.compare.gateway import Gateway, listening

Make = Callable[..., Settings]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with listening() as running:
        yield running


@pytest.fixture
def questions(tmp_path: Path) -> str:
    """Six questions, `0?` to `5?`, each answered by its number."""
    path = tmp_path / "questions.jsonl"
    rows = [{"question": f"{i}?", "answer": str(i)} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"file:{path}"


@pytest.fixture
def make(gateway: Gateway, questions: str, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Settings, with what a test wants otherwise. Engines come to rest at once."""
    monkeypatch.setattr(engine, "STEP_SECONDS", 0.001)

    def made(**more: Any) -> Settings:
        arms = [{"label": "plain"}, {"label": "vote", "strategy": "self_consistency", "params": {"samples": 3}}]
        usual = {"suite": questions, "url": gateway.url, "model": "m", "block": 2, "at_once": 3, "arms": arms}
        return Settings.model_validate(usual | more)

    return made
