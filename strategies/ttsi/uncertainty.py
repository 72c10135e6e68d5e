"""How sure a model is of what it is about to do: the gap between the two likeliest of its actions.

    l_n = log P(action n | request);  p = softmax(l);  gap = p(1) - p(2)     relative softmax scoring, RSS

An action is a call of one of the request's tools, by name, in the chat template's own words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, digits
from typing import Any, Literal

from strategies.engine import Message, NotTrained, Prompt, Tool
from strategies.session import Session
from strategies.vote import Vote

Normalise = Literal["mean", "sum"]


@dataclass(frozen=True, slots=True)
class Certainty:
    """What a model makes of its choice."""

    gap: float
    """Between the two likeliest, 0 to 1; 1 where there is no other."""
    best: str
    shares: dict[str, float]
    """Of each action; their sum is 1, or less where samples came to no answer."""

    @classmethod
    def of(cls, shares: dict[str, float]) -> "Certainty":
        """From probabilities by action; at least one."""
        first, *others = sorted(shares.values(), reverse=True)
        return cls(first - max(others, default=0.0), max(shares, key=lambda name: shares[name]), shares)


def softmax(logits: Sequence[float]) -> list[float]:
    """Probabilities of log-probabilities up to a constant; even where none is possible."""
    largest = max(logits)
    if largest == -math.inf:
        return [1 / len(logits)] * len(logits)
    weights = [math.exp(logit - largest) for logit in logits]
    return [weight / sum(weights) for weight in weights]


async def of_tools(
    messages: Sequence[Message], tools: Sequence[Tool], actions: Sequence[Tool], normalise: Normalise, engine: Session
) -> Certainty:
    """By the probabilities of the names of those tools that may be called.

    Raises Exhausted, or NotTrained if the chat template writes no calls.

    A name is scored whole, and with the token after it: else a name that begins another would have the other's share,
    too.
    """
    names = list(dict.fromkeys(tool["function"]["name"] for tool in actions))
    if len(names) == 1:
        return Certainty.of({names[0]: 1.0})
    prompt, continuations = await candidates(messages, tools, names, engine)
    scores = await engine.score(prompt, continuations)
    logits = [score.total / (len(score.logprobs) if normalise == "mean" else 1) for score in scores]
    return Certainty.of(dict(zip(names, softmax(logits), strict=True)))


async def candidates(
    messages: Sequence[Message], tools: Sequence[Tool], names: Sequence[str], engine: Session
) -> tuple[Prompt, list[tuple[int, ...]]]:
    """What all calls share up to their names, and how they go on from there to the first token that is shared again."""
    asked = [*names, unlike(names)]
    prompts = [await rendered([*messages, calling(name, {})], tools, engine) for name in asked]
    texts = [prompt.token_ids for prompt in prompts]
    start = shared_start(texts)
    tails = [text[start:] for text in texts]
    if not all(tails):
        raise NotTrained("the model's chat template writes no calls of tools")
    end = shared_start([tail[::-1] for tail in tails])
    prompt = Prompt(texts[0][:start], prompts[0].attachments)
    return prompt, [tail[: len(tail) - end + 1] for tail in tails[: len(names)]]


def unlike(names: Sequence[str]) -> str:
    """A name that begins and ends as none of the others: next to it, what they share is seen to be a part of them."""

    def other(characters: set[str]) -> str:
        return next((one for one in ascii_lowercase + digits if one not in characters), "_")

    return other({name[:1] for name in names}) + other({name[-1:] for name in names})


async def rendered(messages: Sequence[Message], tools: Sequence[Tool] | None, engine: Session) -> Prompt:
    """A conversation of ours, not of the client. Raises Exhausted, or NotTrained if the chat template refuses it."""
    try:
        return await engine.render(messages, tools)
    except Exception as error:
        if not any(error is failure for failure in engine.failures):
            raise
        raise NotTrained(f"the model's chat template refuses it: {error}"[:300]) from error


def calling(name: str, arguments: Any) -> Message:
    """An assistant's message that calls a tool."""
    # Some templates take no id but of nine letters and digits.
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call00000", "type": "function", "function": function}],
    }


def shared_start(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all texts begin with."""
    return next((i for i, tokens in enumerate(zip(*texts, strict=False)) if len(set(tokens)) > 1), min(map(len, texts)))


def of_votes(vote: Vote, samples: int) -> Certainty:
    """Of sampled answers: by the two largest groups that agree. An extension, no part of the paper.

    Samples that came to no answer are doubt: they count for nobody.
    """
    return Certainty.of({group.answer: group.votes / samples for group in vote.groups})
