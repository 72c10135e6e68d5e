import itertools
import json
import random
import time
from collections.abc import Callable

import httpx
import pytest

from benchmarks.load import LoadError, all_of, ask, chat, client, prompt, until


async def test_a_stream_is_timed_to_its_first_visible_text(url: str) -> None:
    async with client(url) as http:
        reply = await ask(http, chat("m", "three words here", 4))
    assert reply.first_token is not None
    # The role comes at once and does not count.
    assert 0.05 <= reply.first_token <= reply.seconds
    assert (reply.status, reply.text, reply.tokens, reply.usage["prompt_tokens"]) == (200, "word " * 4, 4, 3)


async def test_an_answer_in_one_piece_brings_its_strategy(url: str) -> None:
    async with client(url) as http:
        reply = await ask(http, chat("m", "hello", 2, stream=False))
    assert reply.first_token is None
    assert (reply.tokens, reply.cached_tokens, reply.strategy) == (2, 2, {"name": "direct"})


async def test_a_stream_brings_calls_and_notes(url: str) -> None:
    async with client(url) as http:
        reply = await ask(http, chat("m", "hello", 0, tools=[{}]))
    assert reply.calls == (("add", '{"n": 1}'), ("halve", '{"n": 1}'))
    ((seconds, note),) = reply.notes
    assert 0.05 <= seconds <= reply.seconds
    assert note == {"kind": "pairs", "refused": 1}
    assert (reply.finish_reason, reply.strategy["name"]) == ("tool_calls", "ttsi")


async def test_an_answer_in_one_piece_brings_its_calls(url: str) -> None:
    async with client(url) as http:
        reply = await ask(http, chat("m", "hello", 1, tools=[{}], stream=False))
    assert (reply.calls, reply.notes) == ((("add", "{}"),), ())


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_is_a_reply_that_does_not_pass_the_check(url: str, stream: bool) -> None:
    async with client(url) as http:
        reply = await ask(http, chat("m", "refuse", 1, stream=stream))
    assert reply.status == 400
    with pytest.raises(LoadError, match="refused"):
        reply.checked()


async def test_an_error_within_a_stream_is_a_failure(url: str) -> None:
    async with client(url) as http:
        reply = await ask(http, chat("m", "break", 1))
    assert (reply.status, reply.text) == (500, '{"message": "the engine died"}')


@pytest.mark.parametrize(
    ("chunk", "status", "text"),
    [
        ({"id": "1"}, 200, "ab"),
        ({"choices": [{"index": 0}]}, 200, "ab"),
        ({"choices": [{"index": 0, "delta": None}]}, 200, "ab"),
        ({"choices": [{"delta": {"content": ""}}], "error": None}, 200, "ab"),
        ({"choices": [{"delta": {"tool_calls": [{"function": {"name": "f"}}]}}]}, 200, "ab"),
        ({"choices": [3]}, 502, None),
        ("no object", 502, None),
    ],
    ids=str,
)
async def test_chunks_of_other_servers(chunk: object, status: int, text: str | None) -> None:
    """Some lack what OpenAI's have; what cannot be read is a failure of that request alone."""

    def answer(request: httpx.Request) -> httpx.Response:
        pieces = [{"choices": [{"delta": {"content": "a"}}]}, chunk, {"choices": [{"delta": {"content": "b"}}]}]
        lines = [f"data: {json.dumps(piece)}\n\n" for piece in pieces]
        if isinstance(chunk, str):
            lines[1] = 'data: {"choices": [\n\n'
        return httpx.Response(200, text="".join(lines))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://x") as http:
        reply = await ask(http, chat("m", "hello", 2))
    assert reply.status == status
    assert text is None or reply.text == text


async def test_no_server_is_a_reply_too() -> None:
    async with client("http://127.0.0.1:1") as http:
        assert (await ask(http, chat("m", "hello", 1))).status == 0


async def test_a_load_keeps_to_its_concurrency(url: str, most_at_once: Callable[[], int]) -> None:
    async with client(url) as http:
        load = await all_of(http, [chat("m", "hello", 3) for _ in range(10)], 4)
    assert most_at_once() == 4
    assert (len(load.replies), load.tokens, len(load.first_tokens)) == (10, 30, 10)
    # Three waves, each with a pause before its first token.
    assert load.seconds >= 0.15


async def test_a_failure_ends_the_load(url: str) -> None:
    async with client(url) as http:
        with pytest.RaisesGroup(LoadError):
            await all_of(http, [chat("m", "refuse", 1)], 2)


def test_until_stops_at_its_deadline() -> None:
    endless = (chat("m", str(number), 1) for number in itertools.count())
    assert next(until(time.perf_counter() + 60, endless))["messages"][0]["content"] == "0"
    assert list(until(time.perf_counter(), endless)) == []


def test_prompts_are_of_the_seed_and_have_nothing_in_common() -> None:
    generator = random.Random(1)
    first, second = prompt(generator, 50), prompt(generator, 50)
    assert first == prompt(random.Random(1), 50)
    assert len(first.split()) == 50
    assert first.split()[:4] != second.split()[:4]
