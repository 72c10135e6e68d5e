"""The Python client, sync and async, over real HTTP."""

import asyncio
import time
from typing import Any

import pytest
from openai import APIError, BadRequestError

from clients import Answer, AnswerDelta, AsyncRedraft, Done, Note, Redraft, Thought
from clients.events import join_thoughts
from tests.clients.fake_server import MODEL, app

Requests = list[dict[str, Any]]


def check_whole(answer: Answer) -> None:
    assert answer.text == "It is 42."
    assert answer.finish_reason == "stop"
    assert answer.thoughts == (
        Thought("Six [b]by seven", 0, "draft"),
        Thought("Maybe forty", 1, "draft"),
        Thought("Fine.", 0, "critique"),
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert (answer.usage.completion_tokens, answer.usage.completion_tokens_details.reasoning_tokens) == (20, 15)
    assert answer.strategy is not None
    assert (answer.strategy.name, answer.strategy.engine_calls, answer.strategy.stop_reason) == ("best_of_n", 3, "kept")
    assert answer.strategy.notes[0]["votes"] == 2


def test_answer(fake_url: str, requests: Requests) -> None:
    client = Redraft(fake_url, "secret")
    answer = client.answer(
        "6*7?", "best_of_n", {"rounds": 1}, {"max_tokens": 99}, temperature=0.5, extra_body={"top_k": 5}
    )
    check_whole(answer)
    (request,) = requests
    assert request["strategy"] == {"name": "best_of_n", "params": {"rounds": 1}, "budget": {"max_tokens": 99}}
    assert request["messages"] == [{"role": "user", "content": "6*7?"}]
    assert (request["model"], request["temperature"], request["top_k"]) == (MODEL, 0.5, 5)
    assert request["authorization"] == "Bearer secret"


def test_plain_answer_has_no_strategy(fake_url: str, requests: Requests) -> None:
    answer = Redraft(fake_url).answer([{"role": "system", "content": "s"}, {"role": "user", "content": "6*7?"}])
    assert (answer.text, answer.thoughts, answer.strategy) == ("It is 42.", (), None)
    assert "strategy" not in requests[0]
    assert [message["role"] for message in requests[0]["messages"]] == ["system", "user"]


def test_alias_as_model(fake_url: str, requests: Requests) -> None:
    check_whole(Redraft(fake_url, model=f"{MODEL}@best_of_n").answer("6*7?"))
    check_whole(Redraft(fake_url).answer("6*7?", model=f"{MODEL}@best_of_n"))
    assert all("strategy" not in request for request in requests)


def test_stream_yields_events_in_order(fake_url: str) -> None:
    events = list(Redraft(fake_url).stream("6*7?", "self_refine"))
    assert [type(event) for event in events] == [*[Thought] * 5, Note, *[AnswerDelta] * 2, Done]
    note = events[5]
    assert isinstance(note, Note)
    assert (note.text, note.data["votes"], note.branch) == ("kept branch 0", 2, 0)


def test_leaving_a_stream_closes_the_connection(fake_url: str) -> None:
    before = app.state.abandoned
    events = Redraft(fake_url).stream("sleep", "self_refine")
    assert next(events) == Thought("Six ", 0, "draft")
    events.close()
    deadline = time.monotonic() + 5
    while app.state.abandoned == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert app.state.abandoned == before + 1


def test_errors_are_those_of_the_sdk(fake_url: str) -> None:
    with pytest.raises(BadRequestError, match="no strategy magic"):
        Redraft(fake_url).answer("6*7?", "magic")
    with pytest.raises(APIError, match="the engine died"):
        Redraft(fake_url).answer("break", "best_of_n")


def test_params_without_a_strategy_are_refused(fake_url: str) -> None:
    with pytest.raises(ValueError, match="none is named"):
        Redraft(fake_url).answer("6*7?", params={"rounds": 2})


def test_listings(fake_url: str) -> None:
    client = Redraft(fake_url)
    assert client.models() == [MODEL, f"{MODEL}@self_refine", f"{MODEL}@best_of_n", f"{MODEL}@ttsi"]
    listed = {strategy.name: strategy for strategy in client.strategies()}
    assert (listed["ttsi"].available, listed["ttsi"].needs) == (False, ("training",))
    assert (listed["srgen"].kind, listed["best_of_n"].kind) == ("decoder", "orchestrator")
    assert listed["best_of_n"].parameters["type"] == "object"


async def use_async(url: str) -> None:
    client = AsyncRedraft(url)
    check_whole(await client.answer("6*7?", "best_of_n"))
    assert (await client.models())[0] == MODEL
    assert {strategy.name for strategy in await client.strategies()} == {"self_refine", "best_of_n", "ttsi", "srgen"}
    await client.openai.close()


def test_async_client(fake_url: str) -> None:
    asyncio.run(use_async(fake_url))


def test_join_thoughts_starts_anew_when_the_role_changes() -> None:
    pieces = [Thought("a", 0, "draft"), Thought("x", 0, "critique"), Thought("b", 0, "draft"), Thought("c", 0, "draft")]
    assert [thought.text for thought in join_thoughts(pieces)] == ["a", "x", "bc"]
