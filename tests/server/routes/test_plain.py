"""Requests without a strategy: vLLM's own answers, as the real SDK sees them."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from tests.server.routes.test_chat import SCHEMA, TALK, WEATHER
from tests.servers import Server, Spent


def ask(server: Server, **changes: Any) -> ChatCompletion:
    request: dict[str, Any] = {"model": server.model, "messages": TALK, "max_tokens": 12, "seed": 7, **changes}
    answer = server.client.chat.completions.create(**request)
    assert isinstance(answer, ChatCompletion)
    return answer


def test_an_answer(server: Server) -> None:
    before = server.settled()
    answer = ask(server)
    spent = Spent.between(before, server.settled())
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (spent.prompt, spent.completion)
    assert "strategy" not in (answer.model_extra or {})


def test_a_stream_with_usage(server: Server) -> None:
    *chunks, last = server.client.chat.completions.create(
        model=server.model, messages=TALK, max_tokens=12, seed=7, stream=True, stream_options={"include_usage": True}
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == ask(server).choices[0].message.content
    assert last.usage is not None
    assert last.usage.completion_tokens <= 12


async def test_an_async_stream(server: Server) -> None:
    client = server.async_client
    stream = await client.chat.completions.create(model=server.model, messages=TALK, max_tokens=8, stream=True)
    assert [chunk async for chunk in stream]
    await client.close()


def test_several_answers(server: Server) -> None:
    answer = ask(server, n=3, extra_body={"ignore_eos": True})
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 36


def test_the_same_seed_gives_the_same_answer(server: Server) -> None:
    ask(server)
    assert ask(server).choices[0].message.content == ask(server).choices[0].message.content


def test_logprobs(server: Server) -> None:
    choice = ask(server, logprobs=True, top_logprobs=2).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(e.token for e in choice.logprobs.content).removesuffix("<|im_end|>") == choice.message.content


def test_stop(server: Server) -> None:
    answer = ask(server, stop=["e"], max_tokens=60)
    assert answer.choices[0].finish_reason == "stop"
    assert "e" not in (answer.choices[0].message.content or "")


def test_a_json_schema(server: Server) -> None:
    answer = ask(server, response_format=SCHEMA, max_tokens=60)
    assert json.loads(answer.choices[0].message.content or "").keys() == {"grown", "age"}


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["required", "named"]
)
def test_a_tool_is_called(server: Server, choice: Any) -> None:
    answer = ask(server, tools=[WEATHER], tool_choice=choice, max_tokens=60)
    assert answer.choices[0].message.tool_calls
    call = answer.choices[0].message.tool_calls[0]
    assert call.type == "function"
    assert json.loads(call.function.arguments).keys() == {"city"}


def test_tools_by_choice(server: Server) -> None:
    assert ask(server, tools=[WEATHER], tool_choice="auto").choices[0].finish_reason


def test_a_message_is_continued(server: Server) -> None:
    talk: Any = [{"role": "user", "content": "Count to nine."}, {"role": "assistant", "content": "1, 2, 3, 4,"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    answer = ask(server, messages=talk, max_tokens=4, temperature=0, extra_body=extra)
    assert "5" in (answer.choices[0].message.content or "")


def test_completions(server: Server) -> None:
    answer = server.client.completions.create(model=server.model, prompt="1, 2, 3, 4,", max_tokens=4, temperature=0)
    assert "5" in answer.choices[0].text
    stream = server.client.completions.create(
        model=server.model, prompt="1, 2, 3, 4,", max_tokens=4, temperature=0, stream=True
    )
    assert "5" in "".join(choice.text for chunk in stream for choice in chunk.choices)


def test_health(server: Server) -> None:
    with server.http as http:
        assert http.get("/health").status_code == 200


def test_metrics_are_vllms_and_ours(server: Server) -> None:
    ask(server)
    server.client.chat.completions.create(model=server.alias("best_of_n"), messages=TALK, max_tokens=4)
    names = server.metrics().names()
    assert {
        "vllm:num_requests_running",
        "redraft_strategy_requests_total",
        "redraft_strategy_running",
        "redraft_strategy_duration_seconds_count",
        "redraft_strategy_first_thought_seconds_count",
        "redraft_strategy_first_answer_seconds_count",
        "redraft_strategy_engine_calls_total",
        "redraft_strategy_prompt_tokens_total",
        "redraft_strategy_cached_tokens_total",
        "redraft_strategy_completion_tokens_total",
    } <= names


def prompt_of(server: Server, **request: object) -> str:
    """The prompt that a chat request becomes."""
    with server.http as http:
        tokens = http.post("/tokenize", json={"model": server.model, **request}).raise_for_status().json()["tokens"]
        text = http.post("/detokenize", json={"model": server.model, "tokens": tokens}).raise_for_status().json()
    prompt: str = text["prompt"]
    return prompt


def test_text_survives_its_tokens(server: Server) -> None:
    assert prompt_of(server, prompt="Grüße, 世界!") == "Grüße, 世界!"


def test_tools_reach_the_prompt(server: Server) -> None:
    prompt = prompt_of(server, messages=TALK, tools=[WEATHER])
    assert "get_weather" in prompt
    assert "<tools>" in prompt
    assert "You are terse." in prompt
    assert prompt.endswith("<|im_start|>assistant\n")
    assert "get_weather" not in prompt_of(server, messages=TALK)


def test_a_tools_result_reaches_the_prompt(server: Server) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    talk: Any = [
        {"role": "user", "content": "How is the weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "7 degrees, rain"},
    ]
    prompt = prompt_of(server, messages=talk, tools=[WEATHER])
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>' in prompt
    assert "<tool_response>\n7 degrees, rain\n</tool_response>" in prompt
    assert ask(server, messages=talk, tools=[WEATHER]).choices[0].message
