"""What a pair must look like, and what is learnt of it."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from strategies.engine import Message, NotTrained, Prompt, Tool
from strategies.session import Session
from strategies.ttsi.pairs import Pair, PairFormat, example_of
from strategies.ttsi.uncertainty import calling
from tests.strategies.scripted import EOS
from tests.strategies.ttsi.test_uncertainty import ASKED, CallingEngine

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "rain",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 7}},
            "required": ["city"],
        },
    },
}
BARE: Any = {"type": "function", "function": {"name": "now"}}


def written(name: str, arguments: Any, question: str = "And in Rome?") -> str:
    return json.dumps({"question": question, "call": {"name": name, "arguments": arguments}})


async def test_a_call_that_fits_its_tool() -> None:
    form = PairFormat(ASKED, [WEATHER, BARE])
    pair = await form.read(written("rain", {"city": "Rome", "days": 3}))
    assert (pair.question, pair.tool) == ("And in Rome?", "rain")
    assert pair.answer == calling("rain", {"city": "Rome", "days": 3})
    assert (await form.read(written("now", {}))).tool == "now"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        written("rain", {}),
        written("rain", {"city": 1}),
        written("rain", {"city": "Rome", "days": 8}),
        written("sun", {"city": "Rome"}),
        written("rain", {"city": "Rome"}, question=""),
        json.dumps({"question": "a"}),
        json.dumps({"question": "a", "call": {"name": "now", "arguments": {}}, "more": 1}),
        "[" * 100_000,
        written("rain", {"city": "\ud800"}),
        written("rain", {"city": "Rome", "height": math.nan}),
        written("now", []),
    ],
    ids=lambda text: text[:40],
)
async def test_another_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        await PairFormat(ASKED, [WEATHER, BARE]).read(text)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"city": {"$ref": "http://127.0.0.1:9/schema.json"}}},
        {"type": "object", "properties": {"city": {"type": "no such type"}}},
        {"type": "object", "properties": {"city": {"pattern": "("}}},
        {"type": "object", "properties": {"city": {"pattern": "^(a+)+$"}}},
        {"type": "object", "properties": {"city": {"pattern": "a{99999999999}"}}},
        {"$ref": "#"},
    ],
    ids=str,
)
async def test_a_hostile_schema_makes_no_pair(schema: Any) -> None:
    """Nothing is fetched, and no pattern holds the event loop up."""
    tool: Any = {"type": "function", "function": {"name": "rain", "parameters": schema}}
    with pytest.raises((ValueError, NotTrained)):
        await PairFormat(ASKED, [tool]).read(written("rain", {"city": "a" * 40 + "!"}))


async def test_a_schema_may_refer_to_itself() -> None:
    """As those that pydantic makes do. A property may have any name."""
    town = {"type": "object", "properties": {"name": {"type": "string"}, "near": {"$ref": "#/$defs/Town"}}}
    properties = {"town": {"$ref": "#/$defs/Town"}, "$ref": {"type": "string"}}
    parameters = {"type": "object", "properties": properties, "$defs": {"Town": town}, "required": ["town"]}
    tool: Any = {"type": "function", "function": {"name": "rain", "parameters": parameters}}
    form = PairFormat(ASKED, [BARE, tool])
    rome = {"name": "Rome", "near": {"name": "Ostia"}}
    assert (await form.read(written("rain", {"town": rome, "$ref": "#"}))).tool == "rain"
    with pytest.raises(ValueError, match="is not of type 'string'"):
        await form.read(written("rain", {"town": {"near": {"name": 3}}}))


async def test_arguments_are_an_object_whatever_a_tool_says() -> None:
    tool: Any = {"type": "function", "function": {"name": "rain", "parameters": {"type": "array"}}}
    form = PairFormat(ASKED, [tool])
    assert (await form.read(written("rain", {"a": 1}))).answer == calling("rain", {"a": 1})
    with pytest.raises(ValueError):
        await form.read(written("rain", ["a"]))


def test_a_tool_of_more_levels_than_python_has() -> None:
    parameters: Any = {}
    for _ in range(2000):
        parameters = {"properties": {"x": parameters}}
    with pytest.raises(NotTrained, match="too deeply"):
        PairFormat(ASKED, [{"type": "function", "function": {"name": "rain", "parameters": parameters}}])


async def test_without_tools_it_is_a_text() -> None:
    form = PairFormat(ASKED, None)
    pair = await form.read(json.dumps({"question": "2 + 2?", "answer": "4"}))
    assert pair == Pair("2 + 2?", {"role": "assistant", "content": "4"})
    with pytest.raises(ValueError):
        await form.read(written("rain", {}))


def test_it_is_asked_with_the_request_and_the_tools() -> None:
    messages: list[Message] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "rain?"}, {"type": "image_url", "image_url": {}}]},
        {"role": "user"},
    ]
    form = PairFormat(messages, [WEATHER])
    (asked,) = form.ask()
    assert "rain?" in asked["content"] and '"city"' in asked["content"]
    assert form.before == messages[:1]
    assert form.schema["properties"]["call"]["anyOf"][0]["properties"]["name"] == {"const": "rain"}


async def test_only_the_answer_is_learnt_to_its_end() -> None:
    """Not the next turn's beginning, which the template may write behind it."""
    engine = CallingEngine([])
    async with Session(engine) as session:
        pair = Pair("Rome?", calling("rain", {}), "rain")
        whole = await engine.render([*pair.messages(()), pair.answer])
        example = await example_of(pair, (), None, session)
        assert "".join(map(chr, example.token_ids)) == "<user>Rome?<end><assistant><call rain><end><assistant>"
        # With a token that ends a turn, to it.
        end = whole.token_ids.index(ord("l"))
        engine.capabilities = type(engine.capabilities)(
            engine.capabilities.names, 1000, 20, 1000, (EOS, whole.token_ids[end])
        )
        example = await example_of(pair, (), None, session)
        assert "".join(map(chr, example.token_ids[-example.learnt :])) == "<cal"


class ThinkingEngine(CallingEngine):
    """Its template writes a thought before an answer: a token, whatever stands in it."""

    OPEN, CLOSE = ord("{"), ord("}")
    opens = False
    """Whether it begins answers with one."""

    def added_token(self, text: str) -> int | None:
        return {"<think>": self.OPEN, "</think>": self.CLOSE}.get(text)

    async def render(self, messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> Prompt:
        text = "".join(map(chr, (await super().render(messages, tools)).token_ids))
        return Prompt(tuple(map(ord, text + "{" if self.opens else text.replace("<call", "{}<call"))))


async def test_not_to_think_is_not_learnt() -> None:
    engine = ThinkingEngine([])
    pair = Pair("Rome?", calling("rain", {}), "rain")
    async with Session(engine) as session:
        example = await example_of(pair, (), None, session)
        assert "".join(map(chr, example.token_ids[-example.learnt :])) == "<call rain><end><assistant>"
        engine.opens = True
        with pytest.raises(NotTrained, match="begins answers with a thought"):
            await example_of(pair, (), None, session)
