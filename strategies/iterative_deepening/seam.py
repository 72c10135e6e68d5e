"""Stop strings over the seam between what an answer is and what continues it: no call alone says those."""

from dataclasses import replace

from strategies.engine import Generation, Piece, Sampling
from strategies.iterative_deepening.doubt import cut
from strategies.session import Session


def crossing(text: str, before: int, stops: tuple[str, ...]) -> tuple[int, str] | None:
    """The first stop string, and its place, that begins in the first `before` characters and ends behind them."""
    found = [(text.find(stop, max(before - len(stop) + 1, 0), before + len(stop) - 1), stop) for stop in stops]
    return min(((at, stop) for at, stop in found if 0 <= at < before), default=None)


class Seam:
    """One continuation of an answer.

    Args:
        before: the answer so far.
        sampling: the client's.
        engine: whose tokens they are.
    """

    def __init__(self, before: Generation, sampling: Sampling, engine: Session) -> None:
        self._before = before
        self._sampling = sampling
        self._engine = engine
        self._text, self._length = before.text, len(before.token_ids)
        self._passed = False
        self._stop: tuple[int, str] | None = None

    def stops(self, piece: Piece) -> bool:
        """Whether the answer ends with this piece, at a stop string over the seam."""
        self._text += piece.text
        self._length += len(piece.token_ids)
        if self._stop is not None or self._passed:
            return False
        found = crossing(self._text, len(self._before.text), self._sampling.stop)
        # One that comes too early is none, and none later either.
        self._passed = found is not None and self._length <= self._sampling.min_tokens
        self._stop = None if self._passed else found
        return self._stop is not None

    def join(self, more: Generation) -> Generation:
        """The answer with what continues it, to a stop string over the seam and the token that ends that."""
        whole = self._before + more
        if self._stop is None:
            return whole
        at, stop = self._stop
        decode = self._engine.decode
        lacking = at + len(stop) - len(whole.text) + len(decode(whole.token_ids))
        lengths = range(len(self._before.token_ids) + 1, len(whole.token_ids))
        length = next((n for n in lengths if len(decode(whole.token_ids[:n])) >= lacking), len(whole.token_ids))
        text = whole.text[: at + len(stop) * self._sampling.include_stop_str_in_output]
        return replace(cut(whole, length), text=text, finish_reason="stop", stop_reason=stop)
