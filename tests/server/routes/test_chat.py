"""Chat completions under every strategy, by the real SDK."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion

from tests.servers import Server

STRATEGIES: dict[str, dict[str, Any]] = {
    "direct": {},
    "self_refine": {"critique_tokens": 16, "stop": "never"},
    "self_consistency": {"samples": 3},
    "best_of_n": {"samples": 3},
}
TALK: list[Any] = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "My name is Ada."},
    {"role": "assistant", "content": "Hello Ada."},
    {"role": "user", "content": [{"type": "text", "text": "What is my name?"}]},
]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {
    "type": "function",
    "function": {
        "name": "get_time",
        "strict": True,
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"grown": {"type": "boolean"}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["grown", "age"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(params=STRATEGIES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def extra(name: str, **changes: object) -> dict[str, Any]:
    return {"strategy": {"name": name, "params": STRATEGIES[name]}, **changes}


def ask(server: Server, name: str, **changes: Any) -> ChatCompletion:
    request: dict[str, Any] = {"messages": TALK, "max_tokens": 16, "temperature": 0.7, "seed": 7, **changes}
    answer = server.client.chat.completions.create(model=server.model, extra_body=extra(name), **request)
    assert isinstance(answer, ChatCompletion)
    return answer


def report(answer: ChatCompletion) -> dict[str, Any]:
    """The response's `strategy` object."""
    found: dict[str, Any] = (answer.model_extra or {})["strategy"]
    return found


def test_by_extra_body(server: Server, name: str) -> None:
    answer = ask(server, name)
    assert answer.model == server.model
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    found = report(answer)
    assert found["name"] == name
    assert STRATEGIES[name].items() <= found["params"].items()
    assert found["budget"] == {"max_tokens": None, "max_seconds": 600.0}
    assert found["stop_reason"] == "finished"
    assert found["engine_calls"] == (4 if name == "self_refine" else 1)
    assert found["rounds"] == (1 if name == "self_refine" else 0)
    assert bool(found["notes"]) == (name != "direct")
    assert found.keys() == {
        "name", "params", "budget", "rounds", "engine_calls", "stop_reason", "seconds", "engine", "notes",
    }  # fmt: skip


def test_by_alias(server: Server, name: str) -> None:
    answer = server.client.chat.completions.create(
        model=server.alias(name), messages=TALK, max_tokens=8, extra_body={"ignore_eos": True}
    )
    assert answer.model == server.alias(name)
    assert answer.choices[0].message.content
    assert report(answer)["name"] == name


def test_by_a_plain_name(server: Server) -> None:
    answer = server.client.chat.completions.create(
        model=server.model, messages=TALK, max_tokens=8, extra_body={"strategy": "best_of_n"}
    )
    assert report(answer)["params"]["samples"] == 4


def test_null_is_no_strategy(server: Server) -> None:
    answer = server.client.chat.completions.create(
        model=server.model, messages=TALK, max_tokens=4, extra_body={"strategy": None}
    )
    assert "strategy" not in (answer.model_extra or {})


async def test_async_whole_and_streamed(server: Server, name: str) -> None:
    client = server.async_client
    request: dict[str, Any] = {
        "model": server.model,
        "messages": TALK,
        "max_tokens": 12,
        "temperature": 0.7,
        "seed": 7,
        "extra_body": extra(name),
    }
    whole = await client.chat.completions.create(**request)
    text = ""
    async for chunk in await client.chat.completions.create(**request, stream=True):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    await client.close()


def test_the_sdks_own_accumulator(server: Server) -> None:
    with server.client.chat.completions.stream(
        model=server.alias("best_of_n"), messages=TALK, max_tokens=60, stop=["e"], seed=7, temperature=0.7
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "".join(deltas)
    assert final.choices[0].finish_reason == "stop"


def test_the_same_seed_gives_the_same_answer(server: Server, name: str) -> None:
    ask(server, name)  # From here on the prefix is cached alike.
    first, second = ask(server, name), ask(server, name)
    assert first.choices[0].message.content == second.choices[0].message.content
    assert [note["kind"] for note in report(first)["notes"]] == [note["kind"] for note in report(second)["notes"]]


def test_the_first_sample_is_the_plain_answer(server: Server) -> None:
    ask(server, "direct")
    plain = server.client.chat.completions.create(
        model=server.model, messages=TALK, max_tokens=16, temperature=0.7, seed=7
    )
    assert ask(server, "direct").choices[0].message.content == plain.choices[0].message.content
    one = server.client.chat.completions.create(
        model=server.model,
        messages=TALK,
        max_tokens=16,
        temperature=0.7,
        seed=7,
        extra_body={"strategy": {"name": "best_of_n", "params": {"samples": 1}}},
    )
    assert one.choices[0].message.content == plain.choices[0].message.content


def test_greedy_refinement(server: Server) -> None:
    assert ask(server, "self_refine", temperature=0).choices[0].message.content


def test_stop_strings(server: Server, name: str) -> None:
    answer = ask(server, name, stop=["e", "a"], max_tokens=60)
    assert answer.choices[0].finish_reason == "stop"
    assert not {"e", "a"} & set(answer.choices[0].message.content or "")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["required", "named"]
)
def test_a_tool_is_called(server: Server, name: str, choice: Any) -> None:
    answer = ask(server, name, tools=[WEATHER, CLOCK], tool_choice=choice, max_tokens=60)
    message = answer.choices[0].message
    assert message.tool_calls
    for call in message.tool_calls:
        assert call.type == "function"
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == ({"city"} if call.function.name == "get_weather" else set())
    # OpenAI says "stop" where the client itself named the function, and so does vLLM.
    assert answer.choices[0].finish_reason == ("tool_calls" if choice == "required" else "stop")
    assert not message.content


def test_a_tool_call_is_streamed(server: Server, name: str) -> None:
    names, arguments, finish = "", "", None
    stream = server.client.chat.completions.create(
        model=server.model,
        messages=TALK,
        tools=[WEATHER],
        tool_choice="required",
        max_tokens=60,
        temperature=0.7,
        seed=7,
        stream=True,
        extra_body=extra(name),
    )
    for chunk in stream:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                assert call.function is not None
                if call.index == 0:
                    names += call.function.name or ""
                    arguments += call.function.arguments or ""
    assert names == "get_weather"
    assert json.loads(arguments).keys() == {"city"}
    assert finish == "tool_calls"


def test_tools_may_be_left_alone(server: Server, name: str) -> None:
    answer = ask(server, name, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls
    assert ask(server, name, tools=[WEATHER], tool_choice="auto").choices[0].finish_reason


def test_a_turn_with_a_tools_result(server: Server, name: str) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    talk: list[Any] = [
        {"role": "user", "content": "How is the weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "7 degrees, rain"},
    ]
    answer = ask(server, name, messages=talk, tools=[WEATHER])
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_a_json_schema_is_kept(server: Server, name: str) -> None:
    answer = ask(server, name, response_format=SCHEMA, max_tokens=60)
    person = json.loads(answer.choices[0].message.content or "")
    assert person.keys() == {"grown", "age"}
    assert isinstance(person["grown"], bool)


def test_logprobs_are_those_of_the_answer(server: Server, name: str) -> None:
    choice = ask(server, name, logprobs=True, top_logprobs=2).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    tokens = [entry.token for entry in choice.logprobs.content]
    assert "".join(tokens).removesuffix("<|im_end|>") == choice.message.content
    assert all(entry.logprob <= 0 for entry in choice.logprobs.content)
    assert all(2 <= len(entry.top_logprobs) <= 3 for entry in choice.logprobs.content)


def test_logprobs_without_likeliest_tokens(server: Server, name: str) -> None:
    choice = ask(server, name, logprobs=True).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content
    assert ask(server, name).choices[0].logprobs is None


def test_streamed_logprobs_are_those_of_the_answer(server: Server, name: str) -> None:
    text, tokens = "", list[str]()
    for chunk in server.client.chat.completions.create(
        model=server.model, messages=TALK, max_tokens=12, seed=7, logprobs=True, stream=True, extra_body=extra(name)
    ):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            tokens += [entry.token for entry in (choice.logprobs.content or [])] if choice.logprobs else []
    assert "".join(tokens).removesuffix("<|im_end|>") == text


@pytest.mark.parametrize("continued", ["direct", "best_of_n"])
def test_an_assistant_message_is_continued(server: Server, continued: str) -> None:
    answer = server.client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "Count to nine."}, {"role": "assistant", "content": "1, 2, 3, 4,"}],
        max_tokens=4,
        seed=1,
        temperature=0.1,
        extra_body=extra(continued, continue_final_message=True, add_generation_prompt=False),
    )
    assert "5" in (answer.choices[0].message.content or "")


def test_criteria_reach_the_critique(server: Server) -> None:
    answer = server.client.chat.completions.create(
        model=server.model,
        messages=TALK,
        max_tokens=8,
        seed=3,
        extra_body={
            "strategy": {
                "name": "self_refine",
                "params": {"criteria": ["it is short", "it is kind"], "critique_tokens": 16, "rounds": 2},
            }
        },
    )
    found = report(answer)
    assert found["params"]["criteria"] == ["it is short", "it is kind"]
    assert found["rounds"] <= 2
    assert any(note["kind"] == "critique" and "of 2 criteria" in note["text"] for note in found["notes"])


def test_an_operators_field_is_not_the_clients(server: Server) -> None:
    """A client cannot smuggle vLLM's own arguments past the strategy."""
    answer = server.client.chat.completions.create(
        model=server.alias("direct"), messages=TALK, max_tokens=4, extra_body={"vllm_xargs": {"anything": 1}}
    )
    assert answer.choices[0].message.content


async def test_64_mixed_requests_at_once(server: Server) -> None:
    kinds: list[str | None] = [None, "direct", "best_of_n", "self_consistency", "self_refine", None, None, "direct"]

    async def one(http: httpx.AsyncClient, number: int) -> dict[str, Any]:
        kind = kinds[number % len(kinds)]
        body: dict[str, Any] = {
            "model": server.model,
            "messages": [{"role": "user", "content": f"Tell me something about the number {number}."}],
            "max_tokens": 8,
            "seed": number,
            "stream": False,
            "ignore_eos": True,
        }
        if kind is not None:
            body["strategy"] = {"name": kind, "params": STRATEGIES[kind]}
        response = await http.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        assert found["choices"][0]["message"]["content"]
        assert (found.get("strategy") or {}).get("name") == kind
        samples = {"best_of_n": 3}.get(kind or "", 1)
        if kind in (None, "direct", "best_of_n"):
            assert found["usage"]["completion_tokens"] == 8 * samples
        return found

    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=server.url, timeout=240, limits=limits) as http:
        answers = await asyncio.gather(*(one(http, number) for number in range(64)))
    assert len({answer["id"] for answer in answers}) == 64
    settled = server.settled()
    assert settled.total("redraft_strategy_running") == 0
