"""Questions with their answers, like the one at hand: what a model asks itself to learn from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema
import referencing

from strategies.engine import Example, Message, NotTrained, Tool
from strategies.judge import SCHEMAS, Undecided, judged
from strategies.session import Session
from strategies.ttsi.uncertainty import calling, rendered, shared_start

QUESTION_CHARACTERS = 600
ANSWER_CHARACTERS = 1200


@dataclass(frozen=True, slots=True)
class Pair:
    """A user's message, and what it should be answered with."""

    question: str
    answer: Message
    tool: str | None = None
    """The one that the answer calls."""

    @property
    def told(self) -> Mapping[str, Any]:
        """As a note has it."""
        if self.tool is None:
            return {"question": self.question, "answer": self.answer["content"]}
        return {"question": self.question, "call": self.answer["tool_calls"][0]["function"]}

    def messages(self, before: Sequence[Message]) -> list[Message]:
        """The conversation that ends with its question."""
        return [*before, {"role": "user", "content": self.question}]


class PairFormat:
    """What pairs of a request look like: with tools a call of one of them, else a text.

    Args:
        messages: the request's.
        tools: what it may call.

    Raises:
        NotTrained: no schema can be made of the tools'.
    """

    def __init__(self, messages: Sequence[Message], tools: Sequence[Tool] | None) -> None:
        self._tools = {tool["function"]["name"]: _arguments_of(tool) for tool in tools or ()}
        self.before = [message for message in messages[:1] if message["role"] in ("system", "developer")]
        """What stands before a pair's question, as it stands before the request's."""
        self._messages = messages
        try:
            self._said = json.dumps(list(tools or ()), ensure_ascii=False)
            self.schema = self._schema()
            """JSON schema of a pair."""
        except RecursionError:
            raise NotTrained("a tool's parameters are nested too deeply") from None

    def _schema(self) -> Mapping[str, Any]:
        question = {"type": "string", "minLength": 1, "maxLength": QUESTION_CHARACTERS}
        if not self._tools:
            return _object(question=question, answer={"type": "string", "minLength": 1, "maxLength": ANSWER_CHARACTERS})
        places = {name: f"tool_{i}" for i, name in enumerate(self._tools)}
        calls = [
            _object(name={"const": name}, arguments={"$ref": f"#/$defs/{place}"}) for name, place in places.items()
        ]
        arguments = {place: _moved(self._tools[name], f"#/$defs/{place}") for name, place in places.items()}
        return {**_object(question=question, call={"anyOf": calls}), "$defs": arguments}

    def ask(self) -> list[Message]:
        """The conversation that asks for one pair."""
        request = "\n\n".join(_text(message) for message in self._messages if message["role"] == "user")
        if self._tools:
            return [{"role": "user", "content": ASK_FOR_CALL.format(tools=self._said, request=request)}]
        return [{"role": "user", "content": ASK_FOR_ANSWER.format(request=request)}]

    async def read(self, text: str) -> Pair:
        """The pair in a text. Raises ValueError for one of another shape, NotTrained if that can't be told in time."""
        try:
            data = json.loads(text)
            # No half of a surrogate pair, which no tokenizer takes, and no number that JSON has not.
            json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        except RecursionError:
            raise ValueError("nested too deeply") from None
        try:
            wrong = await judged(_fault, data, self.schema, pool=SCHEMAS)
        except Undecided:
            raise NotTrained("a tool's schema takes too long to check") from None
        if wrong is not None:
            raise ValueError(wrong)
        if not self._tools:
            return Pair(data["question"], {"role": "assistant", "content": data["answer"]})
        name, arguments = data["call"]["name"], data["call"]["arguments"]
        return Pair(data["question"], calling(name, arguments), name)


async def example_of(pair: Pair, before: Sequence[Message], tools: Sequence[Tool] | None, engine: Session) -> Example:
    """A pair as the chat template writes it, of which the answer is learnt, to the token that ends it.

    Where the template writes down that nothing was thought, that is not learnt: the model shall think as it did.

    Raises:
        NotTrained: the template refuses it, or begins answers with a thought that it leaves out later.
    """
    asked = await rendered(pair.messages(before), tools, engine)
    whole = await rendered([*pair.messages(before), pair.answer], tools, engine)
    start = shared_start([asked.token_ids, whole.token_ids])
    opened, closed = engine.added_token("<think>"), engine.added_token("</think>")
    if opened in asked.token_ids[start:]:
        raise NotTrained("the model's chat template begins answers with a thought that it leaves out of written ones")
    start = max((i + 1 for i, token in enumerate(whole.token_ids) if i >= start and token == closed), default=start)
    ends = [i for i, token in enumerate(whole.token_ids) if i >= start and token in engine.capabilities.end_tokens]
    end = ends[0] + 1 if ends else len(whole)
    return Example(whole.token_ids[:end], end - start)


def _fault(data: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with data of a schema; both may be a client's, whose patterns may take for ever."""
    try:
        # Without a registry of ours, it would fetch what the schema refers to.
        jsonschema.validate(data, schema, registry=referencing.Registry())
    except Exception as error:  # A hostile schema makes any: of its patterns, its numbers, its references.
        return f"not of the shape: {error}"[:300]
    return None


def _arguments_of(tool: Tool) -> Mapping[str, Any]:
    return {**(tool["function"].get("parameters") or {}), "type": "object"}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references within itself are right at another place of a larger one."""
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(part, place) for key, part in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = place + reference[1:]
    return moved


def _object(**properties: Any) -> Mapping[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _text(message: Message) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    texts = (part if isinstance(part, str) else part.get("text") for part in content)
    return "\n".join(filter(None, texts))


ASK_FOR_CALL = """These functions may be called:

{tools}

This was a user's request:

{request}

Write one new request of the same kind, with other details, and the function call that answers it. Reply with JSON."""

ASK_FOR_ANSWER = """This was a user's question:

{request}

Write one new question of the same kind, with other details, and its right answer. Reply with JSON."""
