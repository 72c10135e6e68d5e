"""Both Serve applications on a local Ray, asked with the SDK: `make test-deploy`."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from clients.process import free_port
from tests.servers import GENERATION_TOKENS, RUNNING, TINY_MODEL, Metrics, wait_until

ray = pytest.importorskip("ray", reason="make test-deploy installs it")

KEY, CLIENT_KEY = "between", "client"
QUESTION: list[Any] = [{"role": "user", "content": "hello"}]
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "REDRAFT_API_KEY": CLIENT_KEY,
    "REDRAFT_UPSTREAM_KEY": KEY,
    "PYTHONPATH": str(Path(__file__).parents[2]),
}
ENGINE = {"served_model_name": TINY_MODEL, "dtype": "float32", "kv_cache_gib": 0.1, "step_tokens": 64}


@pytest.fixture(scope="module")
def url(tiny_model: Path) -> Iterator[str]:
    """Of Serve's proxy, with both applications behind it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Else Ray writes one into the user's home.
        from ray import serve

        from deploy.ray_app import engines, gateways
        from deploy.ray_settings import EngineArguments, GatewayArguments

        ray.init(num_cpus=4, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
        try:
            serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
            engine = EngineArguments(model=str(tiny_model), settings={**ENGINE, "max_model_len": 1024})
            serve.run(engines(engine), name="engines", route_prefix="/engine")
            gateway = GatewayArguments(
                model=str(tiny_model), upstream=(f"{url}/engine",), settings={"served_model_name": TINY_MODEL}
            )
            serve.run(gateways(gateway), name="gateways", route_prefix="/")
            yield url
        finally:
            serve.shutdown()
            ray.shutdown()


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=CLIENT_KEY, max_retries=0, timeout=120)


def get(url: str, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.get(url, headers=headers, timeout=60, trust_env=False)


def engine_metrics(url: str) -> Metrics:
    return Metrics.parse(get(f"{url}/engine/metrics", KEY).raise_for_status().text)


def test_health_needs_no_key_and_all_else_does(url: str) -> None:
    assert get(f"{url}/health").status_code == get(f"{url}/engine/health").status_code == 200
    for path in ("/v1/models", "/engine/v1/models", "/engine/metrics", "/engine/inference/v1/generate"):
        assert get(url + path).status_code == 401, path
    assert get(f"{url}/engine/v1/models", CLIENT_KEY).status_code == 401, "a client is no gateway"


def test_strategies_find_what_they_need(url: str) -> None:
    listed = get(f"{url}/v1/strategies", CLIENT_KEY).json()["data"]
    available = {one["name"] for one in listed if one["available"]}
    assert available >= {"self_refine", "self_consistency", "revise", "srgen"}


def test_a_plain_request(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=TINY_MODEL, messages=QUESTION, max_tokens=8)
    assert answer.usage is not None and answer.usage.completion_tokens == 8


def test_a_stream_comes_as_it_is_made(client: openai.OpenAI) -> None:
    began, arrived = time.monotonic(), []
    stream = client.chat.completions.create(
        model=TINY_MODEL, messages=QUESTION, max_tokens=200, stream=True, extra_body={"ignore_eos": True}
    )
    for _ in stream:
        arrived.append(time.monotonic() - began)
    assert len(arrived) > 100
    assert arrived[0] < arrived[-1] / 2, "the whole of it came at once"


@pytest.mark.parametrize("strategy", ["self_consistency", "self_refine", "srgen"])
def test_strategies_run(client: openai.OpenAI, url: str, strategy: str) -> None:
    before = engine_metrics(url).total(GENERATION_TOKENS)
    answer = client.chat.completions.create(
        model=f"{TINY_MODEL}@{strategy}", messages=QUESTION, max_tokens=8, temperature=1, seed=3
    )
    assert answer.usage is not None and answer.model_extra is not None
    tokens = answer.usage.completion_tokens
    assert answer.model_extra["strategy"]["engine"]["completion_tokens"] == tokens
    wait_until(lambda: engine_metrics(url).total(GENERATION_TOKENS) >= before + tokens, 10)
    assert engine_metrics(url).total(GENERATION_TOKENS) == before + tokens


@pytest.mark.parametrize("model", [TINY_MODEL, f"{TINY_MODEL}@self_refine"])
def test_a_client_that_leaves_ends_the_work(client: openai.OpenAI, url: str, model: str) -> None:
    before = engine_metrics(url).total(GENERATION_TOKENS)
    stream = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    wait_until(lambda: engine_metrics(url).total(RUNNING) == 0, 30)
    assert engine_metrics(url).total(GENERATION_TOKENS) < before + 900


def test_a_response_has_one_request_id(url: str) -> None:
    body = {"model": TINY_MODEL, "messages": QUESTION, "max_tokens": 1}
    headers = {"Authorization": f"Bearer {CLIENT_KEY}", "X-Request-Id": "mine"}
    response = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60, trust_env=False)
    assert response.headers.get_list("X-Request-Id") == ["mine"]


def test_errors_come_through(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.chat.completions.create(model="nope", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model=TINY_MODEL, messages=QUESTION, temperature=-1)
