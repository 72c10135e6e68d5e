"""Where the sentence that doubts an answer goes."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace

from strategies.engine import Generation
from strategies.session import Session

UNFINISHED = "\ufffd"
"""What a part of a character decodes to."""


class Doubt:
    """Puts a sentence behind a growing answer, or before the end of the thought in it.

    Args:
        trigger: the sentence.
        engine: whose tokens it is written in.
        think_end: what ends a thought.
    """

    def __init__(self, trigger: str, engine: Session, think_end: str) -> None:
        self.token_ids = engine.encode(trigger)
        self._trigger = trigger
        self._engine = engine
        self._think_end = think_end
        self._think_end_token = engine.added_token(think_end)
        self._ours: set[int] = set()
        """Positions in the answer of tokens that this wrote."""

    def cast(self, y: Generation) -> Generation:
        """The answer with the sentence, to be gone on with."""
        opened = self._open(y)
        length = len(opened.token_ids)
        self._ours = {position for position in self._ours if position < length}
        opened = replace(opened, given=len(self._ours))
        self._ours |= set(range(length, length + len(self.token_ids)))
        return opened.with_given(self._trigger, self.token_ids)

    def _open(self, y: Generation) -> Generation:
        """The answer without what comes after a thought, without the token that ended it, and without parts of a
        character or of a thought's end.
        """
        if (end := self._end_of_thought(y)) is not None:
            return replace(cut(y, end), text=self._engine.decode(y.token_ids[:end]))
        if y.complete:
            at_token = not isinstance(y.stop_reason, str) and bool(y.token_ids)
            return cut(y, len(y.token_ids) - 1) if at_token else y
        if (begun := self._begun_end(y)) is not None:
            return replace(cut(y, begun), text=self._engine.decode(y.token_ids[:begun]))
        length = len(y.token_ids)
        # Four bytes at most, and a token has one at least. The text is without it already.
        while length > len(y.token_ids) - 3 and self._engine.decode(y.token_ids[:length]).endswith(UNFINISHED):
            length -= 1
        return cut(y, length) if not y.text.endswith(UNFINISHED) else y

    def _begun_end(self, y: Generation) -> int | None:
        """How many tokens stand before the beginning, cut at a budget, of an end of a thought."""
        for length in range(len(self._think_end) - 1, 1, -1):
            if self._think_end_token is None and y.text.endswith(self._think_end[:length]):
                return self._tokens_up_to(y, len(self._engine.decode(y.token_ids)) - length)
        return None

    def _end_of_thought(self, y: Generation) -> int | None:
        """How many tokens stand before the first end of a thought that the model wrote."""
        return next((start for start, end in self._ends(y) if self._ours.isdisjoint(range(start, end))), None)

    def _ends(self, y: Generation) -> Iterator[tuple[int, int]]:
        """Tokens that end a thought: the first one's position, and the position after the last one."""
        if self._think_end_token is not None:
            for position, token in enumerate(y.token_ids):
                if token == self._think_end_token:
                    yield position, position + 1
            return
        # Which tokens it is depends on what stands before it: only the text tells.
        text = self._engine.decode(y.token_ids)
        start = text.find(self._think_end)
        while start >= 0:
            end = start + len(self._think_end)
            yield self._tokens_up_to(y, start), self._tokens_up_to(y, end - 1) + 1
            start = text.find(self._think_end, end)

    def _tokens_up_to(self, y: Generation, characters: int) -> int:
        """The most tokens that make no more characters than these."""
        lengths = range(len(y.token_ids) + 1)
        return bisect_right(lengths, characters, key=lambda n: len(self._engine.decode(y.token_ids[:n]))) - 1


def cut(y: Generation, length: int) -> Generation:
    """The first tokens of an answer, with what decoders did to them; the text is left to the caller."""
    return replace(
        y,
        token_ids=y.token_ids[:length],
        logprobs=None if y.logprobs is None else y.logprobs[:length],
        reports=tuple(report for report in y.reports if report.get("position", 0) < length),
    )
