"""How sure a model is of an attempt, and how it makes the next one: by its trained token, or asked in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from strategies.base import Task
from strategies.engine import Generation, Message, Prompt, Scored
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
    mass: float
    """The probability of all the tokens that it was read from."""

    @classmethod
    def of(
        cls, good: Sequence[Scored], bad: Sequence[Scored], confidence: Confidence, refine: bool | None
    ) -> "Verdict":
        """From the log-probabilities of what speaks for an attempt and against it; `refine` None: if less than half is
        for it. What is no number counts as impossible.
        """
        p, q = (sum(math.exp(one.total) for one in side if not math.isnan(one.total)) for side in (good, bad))
        share = p / (p + q) if p + q > 0 else 0.0
        chosen = p if confidence == "end" else share
        return cls(min(chosen, 1.0), p < q if refine is None else refine, min(p + q, 1.0))


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
        return Verdict.of(scores[:-1], scores[-1:], self._confidence, attempt.stop_reason == self._refine)

    async def again(self) -> tuple[Prompt, Generation | None]:
        """The text so far, and the token."""
        assert self._text is not None
        self._text = self._text.with_given("", [self._refine])
        return self._task.prompt + self._text.token_ids, self._text


class ByQuestion:
    """An approximation for models that were not trained for it: they are asked, as a user would.

    The confidence is P(Yes) / (P(Yes) + P(No)) of the beginning of the reply, in any case, with or without a space
    before it, as far as the model has tokens for that. Where both together are unlikely, the reply is another, and the
    confidence says little: the verdict's mass tells.

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
        yes, no = self._spellings(YES), self._spellings(NO)
        scores = await self._engine.score(prompt, [*yes, *no])
        return Verdict.of(scores[: len(yes)], scores[len(yes) :], "ratio", None)

    def _spellings(self, word: str) -> list[tuple[int, ...]]:
        """The ways to write a word that are tokens of their own; where there is none, the word itself.

        Of others the first token is no measure: it may begin the other word too, or many more.
        """
        written = [before + case for before in ("", " ") for case in (word, word.lower(), word.upper())]
        found = dict.fromkeys(self._engine.encode(one) for one in written)
        return [tokens for tokens in found if len(tokens) == 1] or [self._engine.encode(word)]

    async def again(self) -> tuple[Prompt, Generation | None]:
        """The conversation so far, and the request to think again."""
        self._talk += [{"role": "assistant", "content": NO}, {"role": "user", "content": AGAIN}]
        return await self._engine.render(self._talk, self._tools), None
