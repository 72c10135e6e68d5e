"""Requests through a gateway in front of servers elsewhere, as the real SDK sees them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

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


async def test_calls_share_a_connection(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    async with gateway(new_upstream()) as running:
        for model in ("tiny", "tiny@direct") * 3:
            for stream in (False, True):
                request: Any = {"model": model, "messages": TALK, "max_tokens": 40, "stream": stream}
                answer = await running.client.chat.completions.create(**request)
                if stream:
                    assert [chunk async for chunk in answer]
        assert len({one["port"] for one in running.upstreams[0].seen}) == 1


async def test_responses_with_a_strategy(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    async with gateway(new_upstream()) as running:
        answer = await running.client.responses.create(
            model="tiny@direct", input="What is 12 + 7?", max_output_tokens=40
        )
        with pytest.raises(openai.BadRequestError, match="stores no responses"):
            await running.client.responses.create(model="tiny@direct", input="And?", previous_response_id=answer.id)
        with pytest.raises(openai.NotFoundError):
            await running.client.responses.retrieve(answer.id)
    assert answer.output_text == "it is nineteen"


async def test_adapters_are_models(gateway: MakeGateway, new_upstream: NewUpstream, tmp_path: Path) -> None:
    folder = tmp_path / "bard"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8, "target_modules": ["q_proj"]}')
    servers = [new_upstream(adapters=["poet"]) for _ in range(2)]
    async with gateway(*servers, adapters=tmp_path) as running:
        listed = [model.id async for model in running.client.models.list()]
        for name in ("poet", "bard"):
            for model in (name, f"{name}@direct"):
                await running.client.chat.completions.create(model=model, messages=TALK, max_tokens=40)
        asked = [one["body"]["model"] for server in servers for one in server.seen]
    assert {"tiny", "poet", "bard", "bard@self_refine"} <= set(listed)
    assert [server.adapters for server in servers] == [["poet", "bard"]] * 2, "each server has loaded it"
    assert sorted(asked) == ["bard", "bard", "poet", "poet"]


async def test_a_second_gateway_finds_the_adapters_loaded(
    gateway: MakeGateway, new_upstream: NewUpstream, tmp_path: Path
) -> None:
    folder = tmp_path / "bard"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8}')
    server = new_upstream(adapters=["bard"])
    async with gateway(server, adapters=tmp_path) as running:
        await running.client.chat.completions.create(model="bard@direct", messages=TALK, max_tokens=40)
    assert server.adapters == ["bard"]
