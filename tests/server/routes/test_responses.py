"""/v1/responses with a strategy, by the SDK and over the wire."""

from typing import Any

import pytest
from openai.types.responses import Response, ResponseReasoningItem

from tests.server.streams import Recording, record
from tests.servers import Server, Spent

RESPONSES = "/v1/responses"
WITH_THOUGHTS = ("self_refine", "self_consistency", "best_of_n")
ALL = ("direct", *WITH_THOUGHTS)
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


def strategy(name: str) -> dict[str, Any]:
    params: dict[str, Any] = {}
    if name == "self_refine":
        params = {"critique_tokens": 16, "stop": "never"}
    return {"name": name, "params": params}


def body(server: Server, name: str, **changes: object) -> dict[str, Any]:
    request = {
        "model": server.model,
        "input": "Name three fruits.",
        "max_output_tokens": 16,
        "temperature": 0.7,
        "extra_body": {"strategy": strategy(name), "seed": 7},
    }
    return request | changes


def ask(server: Server, name: str, **changes: Any) -> Response:
    response = server.client.responses.create(**body(server, name, **changes))
    assert isinstance(response, Response)
    return response


@pytest.mark.parametrize("name", ALL)
def test_output_is_a_reasoning_item_then_the_message(server: Server, name: str) -> None:
    before = server.settled()
    response = ask(server, name)
    spent = Spent.between(before, server.settled())
    assert [item.type for item in response.output] == [*(["reasoning"] if name in WITH_THOUGHTS else []), "message"]
    assert response.output_text
    assert response.usage is not None
    assert response.usage.output_tokens == spent.completion
    report = (response.model_extra or {})["strategy"]
    assert report["name"] == name
    assert report["engine"]["prompt_tokens"] == spent.prompt


def test_the_reasoning_item_holds_the_thoughts(server: Server) -> None:
    item = ask(server, "self_refine").output[0]
    assert isinstance(item, ResponseReasoningItem)
    assert item.id.startswith("rs_")
    assert item.status == "completed"
    assert item.content is not None
    assert item.content[0].type == "reasoning_text"
    assert "[draft 0]" in item.content[0].text
    assert "[critique 0]" in item.content[0].text


def test_by_alias(server: Server) -> None:
    alias = server.alias("best_of_n")
    response = server.client.responses.create(model=alias, input="Name three fruits.", max_output_tokens=8)
    assert response.model == alias
    assert response.output_text


def test_plain(server: Server) -> None:
    response = server.client.responses.create(model=server.model, input="What is 12 + 7?", max_output_tokens=8)
    assert response.output_text
    assert "strategy" not in (response.model_extra or {})
    assert response.usage is not None
    assert response.usage.output_tokens <= 8


def test_plain_stream(server: Server) -> None:
    with server.client.responses.stream(model=server.model, input="What is 12 + 7?", max_output_tokens=8) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.output_text == "".join(deltas)


@pytest.fixture(scope="module")
def recordings(server: Server) -> dict[str, Recording]:
    """One stream of each strategy."""
    found = {}
    for name in ALL:
        request = body(server, name)
        found[name] = record(server, RESPONSES, request | request.pop("extra_body"))
    return found


@pytest.mark.parametrize("name", ALL)
def test_stream_events_come_in_order(recordings: dict[str, Recording], name: str) -> None:
    events = recordings[name].chunks
    types = [event["type"] for event in events]
    assert types[:2] == ["response.created", "response.in_progress"]
    assert types[-1] in ("response.completed", "response.incomplete")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    items = list(dict.fromkeys(types[2:-1]))
    thinking = [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    if name in WITH_THOUGHTS:
        assert items[:6] == thinking
    assert "response.output_text.delta" in items


@pytest.mark.parametrize("name", ALL)
def test_stream_events_belong_to_their_items(recordings: dict[str, Recording], name: str) -> None:
    events = recordings[name].chunks
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in added] == [*(["reasoning"] if name in WITH_THOUGHTS else []), "message"]
    assert [item["id"] for item in added] == [item["id"] for item in done] == [item["id"] for item in output]
    for event in events:
        if "item_id" in event:
            assert event["item_id"] == added[event["output_index"]]["id"]
    if name in WITH_THOUGHTS:
        deltas = [event for event in events if event["type"] == "response.reasoning_text.delta"]
        assert all({"event", "branch", "role", "note"} <= event["strategy"].keys() for event in deltas)
        assert deltas[0]["delta"]
        text = done[0]["content"][0]["text"]
        assert text == output[0]["content"][0]["text"]
        assert sum(len(event["delta"]) for event in deltas) <= len(text)


@pytest.mark.parametrize("name", ALL)
def test_the_sdk_accumulates_the_stream(server: Server, name: str) -> None:
    request = body(server, name)
    with server.client.responses.stream(**request) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.output_text == "".join(deltas)
    assert final.output_text == ask(server, name).output_text
    assert [item.type for item in final.output][-1] == "message"
    assert (final.model_extra or {})["strategy"]["name"] == name
    assert final.usage is not None
    assert final.usage.output_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_can_be_hidden(server: Server, stream: bool) -> None:
    extra = {"strategy": strategy("best_of_n"), "seed": 7, "include_reasoning": False}
    if stream:
        request = body(server, "best_of_n")
        del request["extra_body"]
        events = record(server, RESPONSES, request | extra).chunks
        assert not any("reasoning" in event["type"] for event in events)
        output = events[-1]["response"]["output"]
    else:
        output = ask(server, "best_of_n", extra_body=extra).model_dump()["output"]
    assert [item["type"] for item in output] == ["message"]


def test_instructions_and_turns(server: Server) -> None:
    response = ask(
        server,
        "self_refine",
        instructions="Answer in English.",
        input=[
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": "Hello Ada."},
            {"role": "user", "content": [{"type": "input_text", "text": "What is my name?"}]},
        ],
    )
    assert response.output_text


@pytest.mark.parametrize("name", ["direct", "self_refine", "best_of_n"])
def test_a_required_tool_is_called(server: Server, name: str) -> None:
    response = ask(server, name, tools=[TOOL], tool_choice="required", max_output_tokens=60)
    calls = [item for item in response.output if item.type == "function_call"]
    assert calls
    assert calls[0].name == "get_weather"
    assert "city" in calls[0].arguments


@pytest.mark.parametrize("name", ["direct", "best_of_n"])
def test_a_json_schema_is_kept(server: Server, name: str) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    text: Any = {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}}
    response = ask(server, name, text=text, max_output_tokens=40)
    assert response.output_text.replace(" ", "").replace("\n", "") in ('{"a":true}', '{"a":false}')


@pytest.mark.parametrize("name", ["direct", "self_refine"])
def test_a_stored_response_is_found_and_continued(server: Server, name: str) -> None:
    first = ask(server, name, store=True, input="My name is Ada.")
    stored = server.client.responses.retrieve(first.id)
    assert stored.id == first.id
    assert stored.usage == first.usage
    assert stored.model == first.model
    # Times and tokens of the run, but not its thoughts: those would be part of the next turn's prompt.
    assert (stored.model_extra or {})["strategy"] == (first.model_extra or {})["strategy"]
    assert [item.type for item in stored.output] == ["message"]
    second = ask(server, name, previous_response_id=first.id, input="What is my name?")
    assert second.previous_response_id == first.id
    assert second.output_text
    assert first.usage is not None
    assert second.usage is not None
    if name == "direct":
        assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


def test_a_budget_leaves_the_response_incomplete(server: Server) -> None:
    extra = {"strategy": {"name": "self_refine", "budget": {"max_tokens": 9}}, "seed": 7}
    response = ask(server, "self_refine", extra_body=extra, max_output_tokens=100)
    assert response.usage is not None
    assert response.usage.output_tokens <= 9
    assert response.output_text
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("name", ["direct", "best_of_n", "self_refine"])
def test_a_deadline_at_once_is_no_error(server: Server, name: str) -> None:
    extra: dict[str, Any] = {"strategy": {"name": name, "budget": {"max_seconds": 0.001}}}
    events = record(server, RESPONSES, body(server, name) | extra | {"extra_body": None}).chunks
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    streamed, whole = events[-1]["response"], ask(server, name, extra_body=extra).model_dump()
    assert [response["strategy"]["stop_reason"] for response in (streamed, whole)] == ["deadline"] * 2
    for response in (streamed, whole):
        # A note without a thought has a reasoning item to stand in, streamed or not. Whether there is a note depends on
        # whether the deadline came before the call or in it.
        has_item = "reasoning" in [item["type"] for item in response["output"]]
        assert has_item or not response["strategy"]["notes"]


async def test_async(server: Server) -> None:
    client = server.async_client
    response = await client.responses.create(**body(server, "best_of_n"))
    assert response.output_text
    async with client.responses.stream(**body(server, "best_of_n")) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert final.output_text == response.output_text
    await client.close()
