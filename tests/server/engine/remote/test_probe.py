"""What the gateway finds out about the servers behind it, and what it makes of what it does not find."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from server.engine.remote.probe import Found, find
from server.settings import Settings
from tests.server.engine.remote.conftest import MakeGateway
from tests.server.engine.remote.upstream import Upstream, running

NewUpstream = Callable[..., Upstream]
TALK: Any = [{"role": "user", "content": "What is 12 + 7?"}]


async def found(*upstreams: Upstream, **changes: Any) -> Found:
    async with running(*upstreams):
        return await find(Settings(engine="remote", upstream=tuple(one.url for one in upstreams), **changes))


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({}, set()),
        ({"processor": False}, {"hidden_states"}),
        ({"cache_counts": False}, {"scores"}),
        ({"scale_out": False}, {"tokens", "grammar", "scores", "hidden_states"}),
        (
            {"scale_out": False, "chat_logprobs": False},
            {"tokens", "logprobs", "grammar", "scores", "hidden_states"},
        ),
    ],
    ids=lambda one: str(sorted(one.items() if isinstance(one, dict) else one)),
)
async def test_capabilities(new_upstream: NewUpstream, changes: dict[str, Any], lacking: set[str]) -> None:
    everything = {"tokens", "logprobs", "grammar", "scores", "hidden_states"}
    assert (await found(new_upstream(**changes))).capabilities == everything - lacking
    both = await found(new_upstream(), new_upstream(**changes))
    assert both.capabilities == everything - lacking, "what one of them cannot, the gateway cannot"


async def test_what_is_served(new_upstream: NewUpstream) -> None:
    one = await found(new_upstream(model="lama", root="org/lama", max_model_len=99, adapters=["poet"]))
    assert (one.identity.model, one.identity.root, one.identity.max_model_len) == ("lama", "org/lama", 99)
    assert one.adapters == {"poet": "poet"}
    assert one.loads_adapters


async def test_one_that_is_away_is_left_for_later(new_upstream: NewUpstream) -> None:
    here = new_upstream()
    async with running(here):
        settings = Settings(engine="remote", upstream=(here.url, "http://127.0.0.1:1"))
        assert (await find(settings)).identity.model == "tiny"


async def test_none_at_all() -> None:
    with pytest.raises(RuntimeError, match="no upstream server answers"):
        await find(Settings(engine="remote", upstream=("http://127.0.0.1:1",)))


async def test_servers_that_differ(new_upstream: NewUpstream) -> None:
    with pytest.raises(RuntimeError, match="the upstream servers differ"):
        await found(new_upstream(), new_upstream(max_model_len=512))


async def test_a_model_that_is_not_there(new_upstream: NewUpstream) -> None:
    with pytest.raises(RuntimeError, match="no model 'nobody'; it has: tiny"):
        await found(new_upstream(), served_model_name="nobody")


async def test_what_cannot_be_run_is_a_400_that_says_why(gateway: MakeGateway, new_upstream: NewUpstream) -> None:
    async with gateway(new_upstream(processor=False, cache_counts=False)) as behind:
        for strategy, lacking in (("srgen", "hidden_states"), ("revise", "scores")):
            with pytest.raises(openai.BadRequestError, match=f"this engine cannot run {strategy}: it lacks {lacking}"):
                await behind.client.chat.completions.create(model=f"tiny@{strategy}", messages=TALK)
        async with behind.http as http:
            listing = (await http.get("/v1/strategies")).json()
    assert listing["engine"]["capabilities"] == ["grammar", "logprobs", "tokens"]
    assert not any(one["available"] for one in listing["data"] if one["name"] in ("srgen", "revise"))
