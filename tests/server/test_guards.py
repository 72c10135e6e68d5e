"""What an operator sets: keys, limits, heartbeats, logs; and in the end, what a dead engine looks like."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import openai
import psutil  # type: ignore[import-untyped]
import pytest

from tests.conftest import API_KEYS, MAX_BODY_BYTES, MAX_PROMPT_TOKENS
from tests.server.streams import record
from tests.servers import GENERATION_TOKENS, RUNNING, Metrics, Server, Spent, wait_until

CHAT = "/v1/chat/completions"
ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/v1/strategies"),
    ("GET", "/metrics"),
    ("GET", "/metrics/"),
    ("POST", CHAT),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/resp_1"),
    ("POST", "/v1/responses/resp_1/cancel"),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/nothing"),
    ("OPTIONS", "/v1/models"),
    ("GET", "/health/"),
    ("GET", "//health"),
    ("GET", "/docs"),
]
WRONG_KEYS = {
    "none": {},
    "wrong": {"Authorization": "Bearer third-secret"},
    "prefix": {"Authorization": f"Bearer {API_KEYS[0][:-1]}"},
    "longer": {"Authorization": f"Bearer {API_KEYS[0]}x"},
    "both": {"Authorization": f"Bearer {','.join(API_KEYS)}"},
    "another scheme": {"Authorization": f"Basic {API_KEYS[0]}"},
    "no scheme": {"Authorization": API_KEYS[0]},
    "empty": {"Authorization": "Bearer"},
    "another header": {"X-Api-Key": API_KEYS[0]},
    "no ascii": {"Authorization": "Bearer f\u00efrst-secret"},
}


def body(server: Server, **changes: object) -> dict[str, Any]:
    return {
        "model": server.alias("direct"),
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 8,
        "seed": 1,
        "ignore_eos": True,
        **changes,
    }


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=str)
def test_every_route_wants_a_key(guarded_server: Server, method: str, path: str) -> None:
    with httpx.Client() as http:
        for headers in ({}, {"Authorization": "Bearer third-secret"}):
            response = http.request(method, f"{guarded_server.url}{path}", headers=headers, json={})
            assert response.status_code == 401
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("AuthenticationError", 401)
            assert not any(key in response.text for key in API_KEYS)
            assert response.headers["X-Request-Id"]


@pytest.mark.parametrize("headers", WRONG_KEYS.values(), ids=WRONG_KEYS.keys())
def test_a_wrong_key_is_refused(guarded_server: Server, headers: dict[str, str]) -> None:
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    assert httpx.get(f"{guarded_server.url}/v1/models", headers=encoded).status_code == 401


@pytest.mark.parametrize("key", API_KEYS)
def test_each_key_is_accepted(guarded_server: Server, key: str) -> None:
    client = openai.OpenAI(base_url=f"{guarded_server.url}/v1", api_key=key)
    assert next(card.id for card in client.models.list()) == guarded_server.model


def test_health_needs_no_key(guarded_server: Server) -> None:
    assert httpx.get(f"{guarded_server.url}/health").status_code == 200


def test_the_sdk_knows_a_wrong_key(guarded_server: Server) -> None:
    client = openai.OpenAI(base_url=f"{guarded_server.url}/v1", api_key="third-secret")
    with pytest.raises(openai.AuthenticationError):
        client.models.list()


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/tokenize"])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_a_large_body_is_refused(guarded_server: Server, path: str, declared: bool) -> None:
    content = b'{"model": "tiny", "messages": [{"role": "user", "content": "' + b"x" * MAX_BODY_BYTES + b'"}]}'
    pieces = (content[at : at + 4096] for at in range(0, len(content), 4096))
    with guarded_server.http as http:
        response = http.post(
            path, content=content if declared else pieces, headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == 413
    assert str(MAX_BODY_BYTES) in response.json()["error"]["message"]
    assert response.headers["X-Request-Id"]


def test_a_body_of_just_the_size_passes(guarded_server: Server) -> None:
    start, end = b'{"model": "tiny", "prompt": "Hi", "max_tokens": 1, "user": "', b'"}'
    content = start + b"x" * (MAX_BODY_BYTES - len(start) - len(end)) + end
    with guarded_server.http as http:
        response = http.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 200


def test_a_long_prompt_of_a_strategy_is_refused(guarded_server: Server) -> None:
    talk = [{"role": "user", "content": "x" * (MAX_PROMPT_TOKENS + 1)}]
    with guarded_server.http as http:
        for stream in (False, True):
            response = http.post(CHAT, json=body(guarded_server, messages=talk, stream=stream))
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "messages"
            assert str(MAX_PROMPT_TOKENS) in response.json()["error"]["message"]


@contextmanager
def long_run(server: Server, **changes: object) -> Iterator[None]:
    """A run that holds the only slot while the block lasts, for many seconds if need be."""
    strategy = {"name": "self_consistency", "params": {"samples": 32}}
    chosen = changes or {"model": server.model, "strategy": strategy}
    request = body(server, max_tokens=1500, stream=True, **chosen)
    with server.http as http, http.stream("POST", CHAT, json=request) as response:
        assert response.status_code == 200
        pieces = response.iter_raw()  # Held: the connection closes with it.
        next(pieces)
        yield
    wait_until(lambda: server.metrics().total("redraft_strategy_running") == 0, 3)


@contextmanager
def full_queue(server: Server) -> Iterator[Iterator[str]]:
    """The only slot is taken and the only place in the queue too; gives the lines that the one who waits is sent."""
    request = body(server, stream=True)
    with long_run(server), server.http as http, http.stream("POST", CHAT, json=request) as waiting:
        assert waiting.status_code == 200
        lines = waiting.iter_lines()
        assert next(lines).startswith(":")
        yield lines


def test_who_waits_gets_heartbeats_and_then_an_answer(guarded_server: Server) -> None:
    with guarded_server.http as http, ExitStack() as busy:
        busy.enter_context(long_run(guarded_server))
        with http.stream("POST", CHAT, json=body(guarded_server, stream=True)) as waiting:
            lines = (line for line in waiting.iter_lines() if line)
            assert all(next(lines).startswith(":") for _ in range(20))
            busy.close()
            rest = list(lines)
    assert rest[-1] == "data: [DONE]"
    assert any('"finish_reason":"length"' in line for line in rest)


def test_waiting_takes_of_the_deadline(guarded_server: Server) -> None:
    request = body(guarded_server, model=guarded_server.model)
    request["strategy"] = {"name": "direct", "budget": {"max_seconds": 0.3}}
    began = time.monotonic()
    with long_run(guarded_server), guarded_server.http as http:
        answer = http.post(CHAT, json=request).raise_for_status().json()
        assert time.monotonic() - began < 5
    assert answer["strategy"]["stop_reason"] == "deadline"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 0


def test_who_leaves_while_waiting_gives_the_place_back(guarded_server: Server) -> None:
    request = body(guarded_server, stream=True)
    with long_run(guarded_server), guarded_server.http as http:
        for _ in range(3):
            with http.stream("POST", CHAT, json=request) as waiting:
                assert waiting.status_code == 200
                next(waiting.iter_lines())
            time.sleep(0.2)


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_overload_is_a_429_that_says_when(guarded_server: Server, path: str, stream: bool) -> None:
    request = body(guarded_server, stream=stream)
    if path != CHAT:
        request = {"model": request["model"], "input": "Hi", "max_output_tokens": 8, "stream": stream}
    with full_queue(guarded_server), guarded_server.http as http:
        response = http.post(path, json=request)
        plain = http.post(CHAT, json=body(guarded_server, model=guarded_server.model))
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "RateLimitError"
    assert int(response.headers["Retry-After"]) >= 1
    assert plain.status_code == 200  # Plain requests are not runs.
    with guarded_server.http as http:
        assert http.post(path, json=request).status_code == 200


def test_a_refused_run_gives_its_slot_back(guarded_server: Server) -> None:
    with guarded_server.http as http:
        for stream in (False, True):
            for changes in ({"model": "tiny@best_of_n", "temperature": 0}, {"logprobs": True, "top_logprobs": 1000}):
                http.post(CHAT, json=body(guarded_server, stream=stream, **changes)).read()
                assert http.post(CHAT, json=body(guarded_server)).status_code == 200


async def test_a_client_that_leaves_gives_its_slot_back(guarded_server: Server) -> None:
    headers = {"Authorization": f"Bearer {guarded_server.api_key}"}
    async with httpx.AsyncClient(base_url=guarded_server.url, headers=headers) as http:
        for stream in (False, True):
            with pytest.raises(TimeoutError):
                request = http.post(CHAT, json=body(guarded_server, max_tokens=1800, stream=stream))
                await asyncio.wait_for(request, 0.3)
            await asyncio.to_thread(
                wait_until, lambda: guarded_server.metrics().total("redraft_strategy_running") == 0, 3
            )
            assert (await http.post(CHAT, json=body(guarded_server), timeout=60)).status_code == 200


OVERLONG: list[Any] = [{"role": "user", "content": "x" * 1500}]
"""With it a draft fits the context of 2048 tokens, and the critique of the draft does not."""


def test_a_follow_up_that_outgrows_the_context_gives_the_draft(guarded_server: Server) -> None:
    chat = body(guarded_server, model=guarded_server.alias("self_refine"), messages=OVERLONG, max_tokens=400)
    draft = body(guarded_server, messages=OVERLONG, max_tokens=400)
    responses = {"model": chat["model"], "input": OVERLONG, "max_output_tokens": 400, "ignore_eos": True, "seed": 1}
    with guarded_server.http as http:
        whole = http.post(CHAT, json=chat).raise_for_status().json()
        plain = http.post(CHAT, json=draft).raise_for_status().json()
        response = http.post("/v1/responses", json=responses).raise_for_status().json()
    stream = record(guarded_server, CHAT, chat)
    events = record(guarded_server, "/v1/responses", responses).chunks
    (choice,) = whole["choices"]
    assert choice["message"]["content"] == plain["choices"][0]["message"]["content"] == stream.joined("content")
    assert choice["finish_reason"] == "length"
    reports = [whole["strategy"], stream.report, response["strategy"], events[-1]["response"]["strategy"]]
    assert [report["stop_reason"] for report in reports] == ["context"] * 4
    assert [report["engine_calls"] for report in reports] == [1] * 4


def long_text(seed: int) -> str:
    """Text whose prefill takes several heartbeats, for it is not cached yet."""
    return "".join(chr(97 + (seed + number) ** 2 % 26) for number in range(1600))


@pytest.mark.parametrize("strategy", ["direct", None], ids=["strategy", "plain"])
def test_silence_is_broken_by_comments(guarded_server: Server, strategy: str | None) -> None:
    name = guarded_server.model if strategy is None else guarded_server.alias(strategy)
    talk = [{"role": "user", "content": long_text(1 if strategy is None else 2)}]
    stream = record(guarded_server, CHAT, body(guarded_server, model=name, messages=talk))
    assert stream.comments
    assert stream.comments[0] < stream.lines[-1].at
    assert stream.done


def test_responses_have_heartbeats_too(guarded_server: Server) -> None:
    request = {"model": guarded_server.alias("direct"), "input": long_text(3), "max_output_tokens": 8}
    assert record(guarded_server, "/v1/responses", request).comments


@pytest.mark.parametrize("given", ["abc-123", "A.b_c-9", "x" * 128])
def test_a_request_id_is_kept(guarded_server: Server, given: str) -> None:
    with guarded_server.http as http:
        assert http.get("/v1/models", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "ü", '{"a":1}', "a/b"])
def test_a_bad_request_id_is_replaced(guarded_server: Server, given: str) -> None:
    with guarded_server.http as http:
        headers = {b"X-Request-Id": given.encode()}
        ids = {http.get("/v1/models", headers=headers).headers["X-Request-Id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(len(found) == 32 and found.isalnum() for found in ids)


def test_the_log_is_json_with_the_requests_id(guarded_server: Server) -> None:
    with guarded_server.http as http:
        response = http.post(CHAT, json=body(guarded_server), headers={"X-Request-Id": "find-me-1"})
    assert "find-me-1" in response.json()["id"]
    wait_until(lambda: any(line.get("request_id") == "find-me-1" for line in guarded_server.log_lines()), 2)
    lines = [line for line in guarded_server.log_lines() if line["request_id"] == "find-me-1"]
    (run,) = (line for line in lines if line["name"] == "redraft.run")
    assert run["strategy"] == "direct"
    assert run["outcome"] == "ok"
    assert run["engine_calls"] == 1
    assert run["completion_tokens"] == 8
    assert any(line["name"] == "uvicorn.access" for line in lines)


def test_every_line_of_the_log_is_json(guarded_server: Server) -> None:
    """The engine's too; but not what native code prints."""
    native = re.compile(r"\[Gloo\]|\[W\d+ \S+ \S+\.cpp:")
    lines = guarded_server.log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("{") and not native.match(line)] == []
    processes = {line["processName"] for line in guarded_server.log_lines()}
    assert any("EngineCore" in name for name in processes)
    messages = [line["message"] for line in guarded_server.log_lines()]
    assert any("redraft is ready" in message for message in messages)


def test_a_web_page_may_ask(guarded_server: Server) -> None:
    """Its browser asks for leave first, and without the key."""
    headers = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    response = httpx.options(f"{guarded_server.url}{CHAT}", headers=headers)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "authorization" in response.headers["Access-Control-Allow-Headers"].lower()
    with guarded_server.http as http:
        assert http.get("/v1/models", headers=headers).headers["Access-Control-Allow-Origin"] == "*"


def test_keys_and_messages_stay_out_of_the_log(guarded_server: Server) -> None:
    with guarded_server.http as http:
        http.post(CHAT, json=body(guarded_server, messages=[{"role": "user", "content": "my-private-words"}]))
        http.post(
            CHAT, json=body(guarded_server, strategy="x", messages=[{"role": "user", "content": "my-private-words"}])
        )
    log = guarded_server.log.read_text()
    assert "my-private-words" not in log
    assert not any(key in log for key in API_KEYS)


@pytest.mark.parametrize("name", ["self_refine", "self_consistency"])
def test_cancelled_runs_are_counted(guarded_server: Server, name: str) -> None:
    """Not in /metrics of vLLM, which counts no token after an abort, but none of them is generated either."""
    labels = {"strategy": name, "outcome": "cancelled"}
    before = guarded_server.settled()
    with long_run(guarded_server, model=guarded_server.alias(name)):
        pass
    after = guarded_server.settled()
    moved = after.total("redraft_strategy_requests_total", **labels) - before.total(
        "redraft_strategy_requests_total", **labels
    )
    assert moved == 1
    counted = after.total("redraft_strategy_completion_tokens_total", strategy=name) - before.total(
        "redraft_strategy_completion_tokens_total", strategy=name
    )
    assert counted == Spent.between(before, after).completion
    assert after.total(GENERATION_TOKENS) == guarded_server.settled().total(GENERATION_TOKENS)


def engine_process(server: Server) -> psutil.Process:
    """vLLM's EngineCore under this server."""
    port = server.url.rpartition(":")[2]
    for child in psutil.Process().children(recursive=True):
        if child.status() == psutil.STATUS_ZOMBIE:
            continue
        if "EngineCore" in " ".join(child.cmdline()) and any(port in parent.cmdline() for parent in child.parents()):
            return child
    raise AssertionError("no EngineCore")


async def ask_until_killed(server: Server) -> dict[str, httpx.Response]:
    """Answers of all kinds whose engine is killed, within ten seconds.

    By one thread: of several, those that read streams were seen to keep another from Python's lock until all was over.
    """
    chats: dict[str, dict[str, Any]] = {
        "plain": {"model": server.model},
        "stream": {"model": server.model, "stream": True},
        "run": {"stream": True},
    }
    # A run that waits for its slot until the engine is dead, and then tells so in its stream.
    waiting = {"model": server.alias("direct"), "input": "Hi", "max_output_tokens": 1800, "stream": True}
    headers = {"Authorization": f"Bearer {server.api_key}"}
    process = engine_process(server)
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as http:

        async def until(name: str, value: float) -> None:
            async with asyncio.timeout(10):
                while Metrics.parse((await http.get("/metrics")).text).total(name) != value:
                    await asyncio.sleep(0.02)

        tasks: dict[str, asyncio.Task[httpx.Response]] = {}
        for running, (name, changes) in enumerate(chats.items(), start=1):
            request = body(server, max_tokens=1800, **changes)
            tasks[name] = asyncio.create_task(http.post(CHAT, json=request))
            await until(RUNNING, running)
        tasks["responses"] = asyncio.create_task(http.post("/v1/responses", json=waiting))
        await until("redraft_strategy_running", 2)
        process.kill()
        async with asyncio.timeout(10):
            return {name: await task for name, task in tasks.items()}


def test_a_dead_engine_is_a_503(guarded_server: Server) -> None:
    """The last test of this module: it kills the server's engine."""
    answers = asyncio.run(ask_until_killed(guarded_server))
    *_, error, done = answers["run"].text.strip().split("\n\n")
    assert '"error"' in error, answers["run"].text[-2000:]
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == 503
    assert done == "data: [DONE]"
    *_, event = answers["responses"].text.strip().split("\n\n")
    assert event.startswith("event: error\n"), answers["responses"].text[-2000:]
    assert json.loads(event.partition("data: ")[2])["code"] == "503"
    assert answers["plain"].status_code in (500, 503)
    assert '"error"' in answers["stream"].text

    assert httpx.get(f"{guarded_server.url}/health").status_code == 503
    with guarded_server.http as http:
        for changes in ({}, {"model": guarded_server.model}, {"stream": True}):
            response = http.post(CHAT, json=body(guarded_server, **changes))
            assert response.status_code == 503
            assert response.json()["error"]["code"] == 503
