"""Fixtures of all tests."""

from pathlib import Path

import pytest

from tests.engines import save_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer model with one token a byte."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny_model"))
