"""Where the sentence that doubts an answer goes."""

from collections.abc import Sequence
from dataclasses import replace

from strategies.engine import Generation
from strategies.session import Session


class Doubt:
    """Puts a sentence behind an answer, or before the end of the thought in it.

    Args:
        trigger: the sentence.
        engine: whose tokens it is written in.
        think_end: what ends a thought.
    """

    def __init__(self, trigger: str, engine: Session, think_end: str) -> None:
        self.token_ids = engine.encode(trigger)
        self._trigger = trigger
        self._engine = engine
        self._think_end = engine.encode(think_end)

    def cast(self, y: Generation) -> Generation:
        """The answer with the sentence, to be gone on with."""
        return self._open(y).with_given(self._trigger, self.token_ids)

    def _open(self, y: Generation) -> Generation:
        """The answer without what comes after a thought, and without the token that ended it."""
        end = find(y.token_ids, self._think_end)
        if end is not None:
            return self._cut(y, end)
        ended = y.complete and not isinstance(y.stop_reason, str)
        return replace(self._cut(y, len(y.token_ids) - 1), text=y.text) if ended and y.token_ids else y

    def _cut(self, y: Generation, length: int) -> Generation:
        return replace(
            y,
            text=self._engine.decode(y.token_ids[:length]),
            token_ids=y.token_ids[:length],
            logprobs=None if y.logprobs is None else y.logprobs[:length],
        )


def find(tokens: Sequence[int], wanted: Sequence[int]) -> int | None:
    """Where a series of tokens first stands; None if nowhere."""
    starts = range(len(tokens) - len(wanted) + 1)
    return next((i for i in starts if tuple(tokens[i : i + len(wanted)]) == tuple(wanted)), None)
