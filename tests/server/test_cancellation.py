"""A client that leaves takes its engine work with it, wherever its run is."""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.servers import GENERATION_TOKENS, RUNNING, WAITING, Metrics, Server, wait_until

GONE_SECONDS = 2.0
"""From the client's leaving to an idle engine."""

RUNS = {
    "plain": None,
    "direct": {"name": "direct"},
    "self_consistency": {"name": "self_consistency", "params": {"samples": 8}},
    "self_refine": {"name": "self_refine", "params": {"rounds": 4, "stop": "never"}},
}


def body(server: Server, strategy: dict[str, Any] | None, **changes: object) -> dict[str, Any]:
    """A request that would keep the engine busy for a minute."""
    request: dict[str, Any] = {
        "model": server.model,
        "messages": [{"role": "user", "content": "Write a long story."}],
        "max_tokens": 1500,
        "ignore_eos": True,
        "seed": 5,
        **changes,
    }
    return request if strategy is None else {**request, "strategy": strategy}


def busy(metrics: Metrics) -> float:
    return metrics.total(RUNNING) + metrics.total(WAITING)


def cancelled(metrics: Metrics, name: str) -> float:
    return metrics.total("redraft_strategy_requests_total", strategy=name, outcome="cancelled")


def assert_all_gone(server: Server, before: Metrics, strategy: dict[str, Any] | None) -> None:
    """Within two seconds nothing runs, and the run counts as cancelled."""
    wait_until(lambda: busy(server.metrics()) == 0, GONE_SECONDS)
    # The branches of a run end one after the other: look again, lest the strategy went on to its next call.
    time.sleep(0.5)
    after = server.metrics()
    assert busy(after) == 0
    if strategy is not None:
        wait_until(lambda: cancelled(server.metrics(), strategy["name"]) == cancelled(before, strategy["name"]) + 1, 1)
        assert server.metrics().total("redraft_strategy_running") == 0


@pytest.fixture(params=RUNS)
def strategy(request: pytest.FixtureRequest) -> dict[str, Any] | None:
    return RUNS[request.param]


@pytest.mark.parametrize("route", ["chat/completions", "responses"])
async def test_leaving_a_stream_ends_the_run(server: Server, strategy: dict[str, Any] | None, route: str) -> None:
    before = server.settled()
    url = f"{server.url}/v1/{route}"
    request = body(server, strategy, stream=True)
    if route == "responses":
        request["input"] = request.pop("messages")
        request["max_output_tokens"] = request.pop("max_tokens")
    async with httpx.AsyncClient(timeout=60) as http, http.stream("POST", url, json=request) as response:
        assert response.status_code == 200
        pieces = response.aiter_bytes()  # Held: the connection closes with it.
        for _ in range(8):
            await anext(pieces)
        assert busy(server.metrics()) > 0
    assert_all_gone(server, before, strategy)


async def test_leaving_before_the_answer_ends_the_run(server: Server, strategy: dict[str, Any] | None) -> None:
    before = server.settled()
    async with httpx.AsyncClient(timeout=60) as http:
        request = http.post(f"{server.url}/v1/chat/completions", json=body(server, strategy))
        task = asyncio.create_task(request)
        await asyncio.to_thread(
            wait_until, lambda: server.metrics().total(GENERATION_TOKENS) > before.total(GENERATION_TOKENS) + 5, 20
        )
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert_all_gone(server, before, strategy)


async def test_leaving_during_the_prefill_ends_the_run(server: Server) -> None:
    strategy: Any = RUNS["self_consistency"]
    before = server.settled()
    long_prompt = [{"role": "user", "content": " ".join(f"word{number}" for number in range(500))}]
    async with httpx.AsyncClient(timeout=60) as http:
        request = http.post(f"{server.url}/v1/chat/completions", json=body(server, strategy, messages=long_prompt))
        task = asyncio.create_task(request)
        await asyncio.to_thread(wait_until, lambda: busy(server.metrics()) > 0, 20)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    # A step of the prefill itself takes a second and cannot be cut.
    wait_until(lambda: busy(server.metrics()) == 0, GONE_SECONDS + 2)
    assert_all_gone(server, before, strategy)


async def test_leaving_at_once_leaves_nothing_behind(server: Server) -> None:
    """Before the request is even rendered, and at any moment after."""
    url = f"{server.url}/v1/chat/completions"
    async with httpx.AsyncClient() as http:
        for delay in (0.001, 0.003, 0.006, 0.011, 0.021, 0.05, 0.1):
            for stream in (False, True):
                with suppress(TimeoutError):
                    await asyncio.wait_for(http.post(url, json=body(server, RUNS["self_refine"], stream=stream)), delay)
    # Idle for a while, not just at one moment: a run that nobody stopped may only be about to start.
    wait_until(lambda: server.metrics().total("redraft_strategy_running") == 0, GONE_SECONDS)
    for _ in range(5):
        time.sleep(0.3)
        assert busy(server.metrics()) == 0


async def test_a_neighbour_does_not_notice(server: Server) -> None:
    client = server.async_client
    neighbour = asyncio.create_task(
        client.chat.completions.create(
            model=server.alias("best_of_n"),
            messages=[{"role": "user", "content": "Count to ten."}],
            max_tokens=24,
            seed=1,
            extra_body={"ignore_eos": True},
        )
    )
    async with httpx.AsyncClient() as http:
        with suppress(httpx.TimeoutException):
            await http.post(
                f"{server.url}/v1/chat/completions", json=body(server, RUNS["self_consistency"]), timeout=0.5
            )
    answer = await neighbour
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4 * 24
    await client.close()


@pytest.mark.parametrize("name", ["direct", "self_consistency"])
async def test_a_neighbour_with_the_same_request_id_goes_on(server: Server, name: str) -> None:
    """Ids come from clients: whoever leaves must end no work but its own."""
    url, headers = f"{server.url}/v1/chat/completions", {"X-Request-Id": "the-same"}
    async with httpx.AsyncClient(headers=headers, timeout=60) as http:
        neighbour = asyncio.create_task(http.post(url, json=body(server, RUNS[name], max_tokens=40)))
        async with http.stream("POST", url, json=body(server, RUNS[name], stream=True)) as response:
            pieces = response.aiter_bytes()
            for _ in range(4):
                await anext(pieces)
        answer = (await neighbour).raise_for_status().json()
    assert answer["usage"]["completion_tokens"] == 40 * answer["strategy"]["engine"]["requests"]


async def test_leaving_as_the_stream_begins_leaves_nothing_behind(server: Server) -> None:
    """When the head of the response is sent but no event of it: nobody reads, so nobody would stop the run."""
    host, port = server.url.removeprefix("http://").split(":")
    for route in ("chat/completions", "responses"):
        request = body(server, RUNS["self_refine"], stream=True)
        if route == "responses":
            request["input"] = request.pop("messages")
        content = json.dumps(request).encode()
        head = f"POST /v1/{route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        for delay in (0.0, 0.003, 0.006, 0.012, 0.025, 0.05):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            await writer.drain()
            await asyncio.sleep(delay)
            writer.transport.abort()
            await asyncio.sleep(0.001)  # Only now the socket closes.
    wait_until(lambda: server.metrics().total("redraft_strategy_running") == 0, GONE_SECONDS)
    for _ in range(5):
        time.sleep(0.3)
        assert busy(server.metrics()) == 0
