"""The default model, converted once into the cache that the server uses too."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from server.models import ResolvedModel, resolve


@pytest.fixture(scope="session")
def default_model() -> ResolvedModel:
    return resolve(None, on_step=print)


@pytest.fixture(scope="session")
def tokenizer(default_model: ResolvedModel) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(default_model.path)
    return loaded


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("REDRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
