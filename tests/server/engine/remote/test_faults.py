"""Servers that fail: what is tried again, what is told, and that others go on."""

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from server.engine.remote.circuit import FAILURES, Circuit
from server.engine.remote.replicas import fault_of
from tests.server.engine.remote.conftest import MakeGateway, RunningGateway
from tests.server.engine.remote.upstream import Upstream

TALK: Any = [{"role": "user", "content": "What is 12 + 7?"}]
NewUpstream = Callable[..., Upstream]


async def ask(running: RunningGateway, strategy: bool, session: str = "s", **changes: Any) -> str:
    """The text of a streamed answer, plain or of a strategy."""
    stream = await running.client.chat.completions.create(
        model="tiny@direct" if strategy else "tiny",
        messages=TALK,
        max_tokens=40,
        stream=True,
        extra_headers={"X-Session-ID": session},
        **changes,
    )
    deltas = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    return "".join(deltas).strip()


async def first_of(running: RunningGateway, strategy: bool, session: str = "s") -> Upstream:
    """The server that a session's requests go to. Its sight and that of others is cleared."""
    await ask(running, strategy, session)
    (first,) = (upstream for upstream in running.upstreams if upstream.seen)
    first.forget()
    return first


@pytest.mark.parametrize("strategy", [False, True], ids=["plain", "strategy"])
@pytest.mark.parametrize("trouble", ["refuse", "overloaded", "garbage", "no_end", "die", "dead_engine"])
async def test_another_server_answers(
    gateway: MakeGateway, new_upstream: NewUpstream, trouble: Any, strategy: bool
) -> None:
    async with gateway(new_upstream(), new_upstream()) as running:
        first = await first_of(running, strategy)
        first.trouble = trouble
        assert await ask(running, strategy) == "it is nineteen"
        assert [len(upstream.seen) for upstream in running.upstreams] == [1, 1], "no call is made twice"


@pytest.mark.parametrize("strategy", [False, True], ids=["plain", "strategy"])
async def test_a_silent_server_is_given_up(gateway: MakeGateway, new_upstream: NewUpstream, strategy: bool) -> None:
    async with gateway(new_upstream(), new_upstream(), upstream_silence_seconds=0.5) as running:
        first = await first_of(running, strategy)
        first.trouble = "hang"
        assert await ask(running, strategy) == "it is nineteen"


@pytest.mark.parametrize("strategy", [False, True], ids=["plain", "strategy"])
@pytest.mark.parametrize("trouble", ["no_end", "die", "hang", "garbage"])
async def test_after_the_first_token_nothing_is_tried_again(
    gateway: MakeGateway, new_upstream: NewUpstream, trouble: Any, strategy: bool
) -> None:
    async with gateway(new_upstream(), new_upstream(), upstream_silence_seconds=0.5) as running:
        first = await first_of(running, strategy)
        first.trouble, first.after = trouble, 2
        with pytest.raises(openai.APIError, match=r"an upstream server (broke off|said nothing|answered what)"):
            await ask(running, strategy)
        assert sum(len(upstream.seen) for upstream in running.upstreams) == 1


@pytest.mark.parametrize("strategy", [False, True], ids=["plain", "strategy"])
async def test_an_error_of_the_request_is_passed_on(
    gateway: MakeGateway, new_upstream: NewUpstream, strategy: bool
) -> None:
    async with gateway(new_upstream(), new_upstream()) as running:
        for upstream in running.upstreams:
            upstream.trouble = "bad_request"
        with pytest.raises(openai.BadRequestError, match="temperature must be non-negative"):
            await running.client.chat.completions.create(
                model="tiny@direct" if strategy else "tiny", messages=TALK, max_tokens=5
            )
        assert sum(len(upstream.seen) for upstream in running.upstreams) == 1
        assert all(replica.circuit.closed for replica in running.replicas.all)


@pytest.mark.parametrize("strategy", [False, True], ids=["plain", "strategy"])
async def test_when_all_are_overloaded_the_client_is_told_when_to_come_again(
    gateway: MakeGateway, new_upstream: NewUpstream, strategy: bool
) -> None:
    async with gateway(new_upstream(), new_upstream()) as running:
        for upstream in running.upstreams:
            upstream.trouble = "overloaded"
        with pytest.raises(openai.RateLimitError, match="too many requests") as caught:
            await running.client.chat.completions.create(
                model="tiny@direct" if strategy else "tiny", messages=TALK, max_tokens=5
            )
        assert caught.value.response.headers["Retry-After"] == "7"
        assert all(replica.circuit.closed for replica in running.replicas.all), "busy is not broken"


async def test_an_unknown_model_is_a_404_of_the_request(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    async with gateway(new_upstream()) as running:
        with pytest.raises(openai.NotFoundError, match="nobody"):
            await running.client.chat.completions.create(model="nobody", messages=TALK)
        assert await ask(running, False) == "it is nineteen"


@pytest.mark.parametrize("strategy", [False, True], ids=["plain", "strategy"])
async def test_a_server_with_another_model_is_left_out(
    gateway: MakeGateway, new_upstream: NewUpstream, strategy: bool
) -> None:
    async with gateway(new_upstream(), new_upstream()) as running:
        first = await first_of(running, strategy)
        first.model = "another"
        assert await ask(running, strategy) == "it is nineteen"
        first.forget()
        assert await ask(running, strategy) == "it is nineteen"
        assert not first.seen


async def test_a_dead_server_is_left_out_until_it_is_back(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    first, second = new_upstream(), new_upstream()
    async with gateway(first, second) as behind:
        dead, other = behind.replicas.all[0], behind.replicas.all[1]
        dead.circuit = Circuit(cooldown=0.0)
        dead.url, url = "http://127.0.0.1:1", dead.url
        sessions = [f"s{number}" for number in range(8)]
        assert {await ask(behind, False, session) for session in sessions} == {"it is nineteen"}
        assert not dead.circuit.closed
        assert other.circuit.closed
        dead.url = url
        async with asyncio.timeout(10):
            while not first.seen:
                await asyncio.gather(*(ask(behind, True, session) for session in sessions))
        assert dead.circuit.closed


@pytest.mark.parametrize("strategy", [False, True], ids=["plain", "strategy"])
async def test_a_single_server_is_not_left_out(gateway: MakeGateway, new_upstream: NewUpstream, strategy: bool) -> None:
    """It may be a router, behind which the next request finds a server that is well."""
    async with gateway(new_upstream()) as running:
        (only,) = running.upstreams
        only.trouble = "die"
        for _ in range(4):
            with pytest.raises(openai.APIError):
                await ask(running, strategy)
        only.trouble = None
        assert await ask(running, strategy) == "it is nineteen"


async def test_other_requests_are_unharmed(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    """One server dies under load: whoever had no token yet is saved, whoever had is told."""
    async with gateway(new_upstream(pause=0.01), new_upstream(pause=0.01)) as running:
        asked = [asyncio.create_task(ask(running, number % 2 == 0, f"s{number}")) for number in range(40)]
        await asyncio.sleep(0.05)
        running.upstreams[0].trouble = "die"
        answers = await asyncio.gather(*asked, return_exceptions=True)
        texts = [answer for answer in answers if isinstance(answer, str)]
        errors = [answer for answer in answers if not isinstance(answer, str)]
        assert set(texts) == {"it is nineteen"}
        assert all(isinstance(error, openai.APIError) and "broke off" in str(error) for error in errors)
        assert len(texts) >= len(running.upstreams[1].seen)


@pytest.mark.parametrize("strategy", [False, True], ids=["plain", "strategy"])
async def test_a_client_that_leaves_ends_the_work(
    gateway: MakeGateway, new_upstream: NewUpstream, strategy: bool
) -> None:
    async with gateway(new_upstream(pause=0.2)) as running:
        stream = await running.client.chat.completions.create(
            model="tiny@direct" if strategy else "tiny", messages=TALK, max_tokens=40, stream=True
        )
        async for chunk in stream:
            if any(choice.delta.content for choice in chunk.choices):
                break
        await stream.close()
        async with asyncio.timeout(10):
            while not running.upstreams[0].gone:
                await asyncio.sleep(0.05)


async def test_a_session_stays_on_its_server(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    async with gateway(*(new_upstream() for _ in range(3))) as running:
        for number in range(12):
            for strategy in (False, True):
                await ask(running, strategy, f"s{number}")
        seen = [upstream.sessions() for upstream in running.upstreams]
    assert sum(len(sessions) for sessions in seen) == 12, "no session is on two servers"
    assert all(seen), "no server is idle"


async def test_the_key_reaches_the_server_and_no_log(
    gateway: MakeGateway, new_upstream: NewUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with gateway(new_upstream(key="open-sesame"), upstream_key="open-sesame") as running:
        assert await ask(running, True) == "it is nineteen"
        running.upstreams[0].key = "another"
        for strategy in (False, True):
            with pytest.raises(openai.APIError, match="refuses this gateway's key"):
                await ask(running, strategy)
    assert "open-sesame" not in caplog.text


@pytest.mark.parametrize(("trouble", "status"), [("no_route", 404), ("unworded", 422)])
async def test_a_refusal_in_other_words_is_the_requests_and_blames_nobody(
    gateway: MakeGateway, new_upstream: NewUpstream, trouble: Any, status: int
) -> None:
    async with gateway(new_upstream(), new_upstream()) as running:
        for upstream in running.upstreams:
            upstream.trouble = trouble
        for _ in range(FAILURES):
            with pytest.raises(openai.APIStatusError) as caught:
                await running.client.chat.completions.create(model="tiny", messages=TALK, max_tokens=5)
            assert caught.value.status_code == status
        assert all(replica.circuit.closed for replica in running.replicas.all)


@pytest.mark.parametrize("header", [b"caf\xc3\xa9", b"x" * 5000, b"tab\tin it"])
async def test_a_session_that_no_header_carries(gateway: MakeGateway, new_upstream: NewUpstream, header: bytes) -> None:
    async with gateway(new_upstream(), new_upstream()) as running, running.http as http:
        for model in ("tiny", "tiny@direct"):
            body = {"model": model, "messages": TALK, "max_tokens": 5, "session_id": "a\nb"}
            answer = await http.post("/v1/chat/completions", json=body, headers=[(b"X-Session-ID", header)])
            assert answer.status_code == 200, answer.text
        assert all(replica.circuit.closed for replica in running.replicas.all)


async def test_an_answer_in_one_piece_may_take_longer_than_silence(
    gateway: MakeGateway, new_upstream: NewUpstream
) -> None:
    """And who leaves before it is there ends the work on it."""
    async with gateway(new_upstream(), upstream_silence_seconds=0.2) as running:
        (upstream,) = running.upstreams
        upstream.trouble = "hang"
        asked = running.client.chat.completions.create(model="tiny", messages=TALK, max_tokens=5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asked, 1.0)
        for _ in range(100):
            if upstream.gone:
                break
            await asyncio.sleep(0.05)
        assert (upstream.gone, len(upstream.seen)) == (1, 1)
        assert running.replicas.all[0].circuit.closed


async def test_a_probe_alone_has_a_server_looked_at(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    """Where nobody sends requests to what is not ready."""
    async with gateway(new_upstream()) as running, running.http as http:
        circuit = Circuit(cooldown=0.05)
        running.replicas.all[0].circuit = circuit
        circuit.fail(fatal=True)
        assert (await http.get("/health")).status_code == 503
        for _ in range(100):
            if (await http.get("/health")).status_code == 200:
                break
            await asyncio.sleep(0.05)
        assert circuit.closed


def test_too_many_files_are_the_gateways_own() -> None:
    error = httpx.ConnectError("no")
    error.__cause__ = OSError(errno.EMFILE, "too many open files")
    fault = fault_of(error)
    assert fault is not None
    assert (fault.blame, fault.begun, fault.error.status) == (False, False, 503)
