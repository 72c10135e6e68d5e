"""How sure a model is of an attempt, and how it makes the next one: by its trained token, or asked in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from strategies.base import Task
from strategies.engine import Generation, Message, Prompt
from strategies.session import Session

Confidence = Literal["end", "ratio"]

QUESTION = "Check your answer to my question step by step in your mind. Is it correct? Answer with one word, Yes or No."
YES, NO = "Yes", "No"
AGAIN = "Think again from the start, and answer my question once more."


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a model makes of its own attempt."""

    confidence: float
    """0 to 1."""
    refine: bool
    """Whether it wants another attempt."""


class Verifier(Protocol):
    """Verifies the attempts of one branch, one after the other."""

    async def verify(self, attempt: Generation) -> Verdict:
        """The verdict on the latest attempt. Raises Exhausted."""
        ...

    async def again(self) -> tuple[Prompt, Generation | None]:
        """What the next attempt answers, and the text that it continues, if it does. Raises Exhausted."""
        ...


class ByToken:
    """As trained: P(end) at the position after an attempt, against the refine token's.

    Args:
        task: the request.
        engine: has a model that knows the token.
        refine: the token.
        confidence: end: P(end); ratio: P(end) / (P(end) + P(refine)).
    """

    def __init__(self, task: Task, engine: Session, refine: int, confidence: Confidence) -> None:
        self._task = task
        self._engine = engine
        self._refine = refine
        self._confidence = confidence
        self._text: Generation | None = None
        """All attempts so far."""

    async def verify(self, attempt: Generation) -> Verdict:
        """By the probabilities of the tokens that may follow."""
        whole = attempt if self._text is None else self._text + attempt
        ended = isinstance(attempt.stop_reason, int) or (attempt.stop_reason is None and bool(attempt.token_ids))
        self._text = replace(whole, token_ids=whole.token_ids[:-1], logprobs=None) if ended else whole
        ends = self._engine.capabilities.end_tokens
        scores = await self._engine.score(
            self._task.prompt + self._text.token_ids, [(token,) for token in (*ends, self._refine)]
        )
        *end, refine = (math.exp(score.total) for score in scores)
        confidence = sum(end) / (sum(end) + refine) if self._confidence == "ratio" else sum(end)
        return Verdict(min(confidence, 1.0), attempt.stop_reason == self._refine)

    async def again(self) -> tuple[Prompt, Generation | None]:
        """The text so far, and the token."""
        assert self._text is not None
        self._text = self._text.with_given("", [self._refine])
        return self._task.prompt + self._text.token_ids, self._text


class ByQuestion:
    """An approximation for models that were not trained for it: they are asked, as a user would.

    The confidence is P(Yes) / (P(Yes) + P(No)) of the first token of the reply.

    Args:
        task: the request.
        engine: has any chat model.
    """

    def __init__(self, task: Task, engine: Session) -> None:
        self._engine = engine
        self._tools = task.tools
        self._talk: list[Message] = list(task.messages)

    async def verify(self, attempt: Generation) -> Verdict:
        """By the probabilities of the two replies."""
        self._talk += [{"role": "assistant", "content": attempt.text}, {"role": "user", "content": QUESTION}]
        prompt = await self._engine.render(self._talk)
        replies: Sequence[tuple[int, ...]] = [self._engine.encode(word)[:1] for word in (YES, NO)]
        yes, no = (math.exp(score.total) for score in await self._engine.score(prompt, replies))
        confidence = yes / (yes + no) if yes + no > 0 else 0.0
        return Verdict(confidence, confidence < 0.5)

    async def again(self) -> tuple[Prompt, Generation | None]:
        """The conversation so far, and the request to think again."""
        self._talk += [{"role": "assistant", "content": NO}, {"role": "user", "content": AGAIN}]
        return await self._engine.render(self._talk, self._tools), None
