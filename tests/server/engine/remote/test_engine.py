"""Requests through a gateway in front of servers elsewhere, as the real SDK sees them."""

from collections.abc import Callable
from typing import Any

from tests.server.engine.remote.conftest import MakeGateway
from tests.server.engine.remote.upstream import Upstream

TALK: Any = [{"role": "user", "content": "What is 12 + 7?"}]
NewUpstream = Callable[..., Upstream]


async def test_a_plain_answer_is_passed_through(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    async with gateway(new_upstream()) as running:
        answer = await running.client.chat.completions.create(model="tiny", messages=TALK)
        (seen,) = running.upstreams[0].seen
    assert answer.choices[0].message.content == "it is nineteen"
    assert seen["body"] == {"model": "tiny", "messages": TALK}
    assert "authorization" not in seen["headers"], "the client's key is this gateway's business"


async def test_a_plain_stream_is_passed_through(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    async with gateway(new_upstream()) as running:
        stream = await running.client.chat.completions.create(model="tiny", messages=TALK, stream=True)
        chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["it ", "is ", "nineteen "]


async def test_a_strategy_over_token_routes(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    async with gateway(new_upstream()) as running:
        answer = await running.client.chat.completions.create(
            model="tiny@self_consistency", messages=TALK, max_tokens=40, temperature=0.8
        )
        calls = running.upstreams[0].seen
    assert answer.choices[0].message.content == "it is nineteen"
    assert answer.choices[0].finish_reason == "stop"
    assert len(calls) == 5
    prompt = len(calls[0]["body"]["token_ids"])
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == prompt
    assert answer.usage.completion_tokens == 5 * len("it is nineteen\0")
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == prompt // 2
    assert len(running.upstreams[0].sessions()) == 1
    assert running.upstreams[0].sessions() != {""}
