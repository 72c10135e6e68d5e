"""A server that speaks OpenAI's chat completions alone: strategies that need only messages work, others are refused."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.server.engine.remote.conftest import MakeGateway
from tests.server.engine.remote.upstream import Upstream

NewUpstream = Callable[..., Upstream]
TALK: Any = [{"role": "user", "content": "What is 12 + 7?"}]


@pytest.mark.parametrize("strategy", ["direct", "self_consistency", "best_of_n", "self_refine"])
async def test_strategies_that_need_messages_alone(
    gateway: MakeGateway, new_upstream: NewUpstream, strategy: str
) -> None:
    async with gateway(new_upstream(scale_out=False)) as behind:
        answer = await behind.client.chat.completions.create(
            model=f"tiny@{strategy}", messages=TALK, max_tokens=30, temperature=0.7, seed=3, stop=["zz"]
        )
        calls = [one["body"] for one in behind.upstreams[0].seen]
    assert (answer.choices[0].message.content or "").strip() == "it is nineteen"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4 * len(calls), "as the server says"
    assert calls[0]["messages"] == TALK
    assert (calls[0]["max_tokens"], calls[0]["temperature"], calls[0]["stop"]) == (30, 0.7, ["zz"])


async def test_a_critique_is_asked_for_in_messages(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    async with gateway(new_upstream(scale_out=False)) as behind:
        await behind.client.chat.completions.create(model="tiny@self_refine", messages=TALK, max_tokens=30)
        second = behind.upstreams[0].seen[1]["body"]["messages"]
    assert len(second) > len(TALK)
    assert any("it is nineteen" in str(message["content"]) for message in second)


@pytest.mark.parametrize(
    ("strategy", "lacking"), [("iterative_deepening", "tokens"), ("srgen", "hidden_states"), ("revise", "scores")]
)
async def test_the_rest_is_a_400(gateway: MakeGateway, new_upstream: NewUpstream, strategy: str, lacking: str) -> None:
    async with gateway(new_upstream(scale_out=False)) as behind:
        with pytest.raises(openai.BadRequestError, match=f"this engine cannot run {strategy}: it lacks .*{lacking}"):
            await behind.client.chat.completions.create(model=f"tiny@{strategy}", messages=TALK)


async def test_what_takes_tokens_to_shape_is_a_400(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    async with gateway(new_upstream(scale_out=False)) as behind:
        with pytest.raises(openai.BadRequestError, match="takes messages alone"):
            await behind.client.chat.completions.create(model="tiny@direct", messages=TALK, logprobs=True)
        assert not behind.upstreams[0].seen


async def test_plain_requests_are_passed_on(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    async with gateway(new_upstream(scale_out=False)) as behind:
        answer = await behind.client.chat.completions.create(model="tiny", messages=TALK, logprobs=True)
    assert answer.choices[0].logprobs is not None
