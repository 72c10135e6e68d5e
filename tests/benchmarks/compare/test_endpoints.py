from collections.abc import Callable

import pytest

from benchmarks.compare.endpoints import base_of, endpoints, metrics_of
from benchmarks.compare.errors import CompareError
from benchmarks.compare.settings import Settings
from tests.benchmarks.compare.gateway import Gateway, listening


@pytest.mark.parametrize(
    ("url", "base", "metrics"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/metrics"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/metrics"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/metrics"),
        ("https://some.host/api/v2", "https://some.host/api/v2", "https://some.host/api/metrics"),
    ],
)
def test_base_urls(url: str, base: str, metrics: str) -> None:
    assert base_of(url) == base
    assert metrics_of(base) == metrics


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(CompareError, match="is no URL"):
        base_of(url)


async def test_a_key_goes_to_its_own_endpoint_alone(
    make: Callable[..., Settings], gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("OTHER_KEY", "other")
    with listening() as second, listening() as third:
        arms = [
            {"label": "a"},
            {"label": "b"},
            {"label": "c", "base_url": second.url},
            {"label": "d", "base_url": third.url, "key_variable": "OTHER_KEY", "metrics_url": "http://x/metrics"},
        ]
        settings = make(arms=arms)
        async with endpoints(settings, settings.url) as found:
            assert found["a"] is found["b"]
            assert found["c"].url == f"{second.url}/v1"
            # Its metrics are at another one, which the key is not for.
            assert "authorization" in found["d"].http.headers
            assert "authorization" not in found["d"].engine._http.headers
            assert found["a"].engine._http is found["a"].http
        assert gateway.keys == ["Bearer secret"]
        assert (second.keys, third.keys) == ([None], ["Bearer other"])
