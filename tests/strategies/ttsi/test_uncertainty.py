"""How certain a model is, from what it makes of the tools' names."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from strategies.engine import Message, Prompt, Tool
from strategies.session import Session
from strategies.ttsi.uncertainty import Certainty, candidates, of_tools, shared_start, softmax
from tests.strategies.scripted import ScriptedEngine


def tool(name: str) -> Tool:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


class CallingEngine(ScriptedEngine):
    """Its template writes a call as `<call NAME>`, a token for each character."""

    async def render(self, messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> Prompt:
        def text(message: Message) -> str:
            calls = "".join(f"<call {one['function']['name']}>" for one in message.get("tool_calls", ()))
            return f"<{message['role']}>{message['content']}{calls}<end>"

        return Prompt(tuple(map(ord, "".join(map(text, messages)) + "<assistant>")))


ASKED: list[Message] = [{"role": "user", "content": "rain?"}]


def test_the_gap_is_that_of_the_two_likeliest() -> None:
    found = Certainty.of({"a": 0.5, "b": 0.2, "c": 0.3})
    assert found.gap == pytest.approx(0.2)
    assert found.best == "a"
    assert Certainty.of({"a": 1.0}).gap == 1


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([0.0, 0.0], [0.5, 0.5]),
        ([math.log(3), 0.0], [0.75, 0.25]),
        ([-5000.0, -5000.0 + math.log(3)], [0.25, 0.75]),
        ([-math.inf, 0.0], [0.0, 1.0]),
        ([-math.inf, -math.inf], [0.5, 0.5]),
    ],
)
def test_softmax(logits: list[float], expected: list[float]) -> None:
    assert softmax(logits) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("texts", "length"), [(["abc", "abd"], 2), (["ab", "abc"], 2), (["", "a"], 0), (["ab", "ab"], 2)], ids=str
)
def test_what_texts_begin_with(texts: list[str], length: int) -> None:
    assert shared_start([list(map(ord, text)) for text in texts]) == length


@pytest.mark.parametrize(
    ("names", "prompt", "continuations"),
    [
        (["rain", "snow"], "<call ", ["rain>", "snow>"]),
        (["get_rain", "get_snow"], "<call ", ["get_rain>", "get_snow>"]),
        (["get", "get_all"], "<call ", ["get>", "get_all>"]),
        (["rain_now", "snow_now"], "<call ", ["rain_now>", "snow_now>"]),
        (["rain", "sun"], "<call ", ["rain>", "sun>"]),
    ],
    ids=str,
)
async def test_names_are_scored_whole(names: list[str], prompt: str, continuations: list[str]) -> None:
    """With the token behind them."""
    async with Session(CallingEngine([])) as session:
        found, tokens = await candidates(ASKED, list(map(tool, names)), names, session)
    assert ["".join(map(chr, one)) for one in tokens] == continuations
    assert "".join(map(chr, found.token_ids)) == f"<user>rain?<end><assistant>{prompt}"


async def certainty(names: list[str], values: dict[str, float], normalise: Any = "mean") -> Certainty:
    engine = CallingEngine([], scores=lambda prompt, token: values.get(chr(token), 0.0))
    async with Session(engine) as session:
        tools = list(map(tool, names))
        return await of_tools(ASKED, tools, tools, normalise, session)


async def test_the_mean_of_a_name_does_not_punish_long_ones() -> None:
    """Eight tokens of -1 are as good as two."""
    values = dict.fromkeys("abcdefgh>", -1.0)
    assert (await certainty(["abcdefg", "h"], values)).gap == pytest.approx(0)
    summed = await certainty(["abcdefg", "h"], values, "sum")
    assert summed.best == "h"
    assert summed.gap == pytest.approx(math.tanh(3))


async def test_relative_softmax_scoring() -> None:
    values = {"a": -1.0, "b": -3.0, "c": -5.0}
    found = await certainty(["a", "b", "c"], values, "sum")
    weights = [math.exp(value) for value in values.values()]
    assert found.gap == pytest.approx((weights[0] - weights[1]) / sum(weights))
    assert found.shares == {
        name: pytest.approx(weight / sum(weights)) for name, weight in zip("abc", weights, strict=True)
    }


async def test_one_tool_is_no_choice() -> None:
    engine = CallingEngine([])
    async with Session(engine) as session:
        twins = [tool("a"), tool("a")]
        assert (await of_tools(ASKED, twins, twins, "mean", session)).gap == 1
        # The other may not be called.
        assert (await of_tools(ASKED, [tool("a"), tool("b")], [tool("b")], "mean", session)).shares == {"b": 1}
    assert not engine.scored
