from collections.abc import Iterator

import pytest

from tests.benchmarks.peers.fake_engine import FakeEngine, serving


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def url(engine: FakeEngine) -> Iterator[str]:
    with serving(engine.app) as url:
        yield url
