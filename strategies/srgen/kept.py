"""What corrections keep of a text for its next one, which has but a few positions more."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.srgen.head import Head

KEPT_BYTES = 512 * 2**20
"""What is kept of all texts may take, where there is plenty of memory."""
PROJECTED_ROWS = 256
"""Positions that are projected at once: enough that W is not read too often."""
CPU_BLOCK_BYTES, GPU_BLOCK_BYTES = 3 * 2**20, 64 * 2**20
"""Of a block in the dtype that is computed in. A CPU has it in its cache from one operation to the next."""
BLOCK_ROWS = 64
"""Positions in a block at most."""


class Kept:
    """A row [V] for each position of some texts, in blocks [rows_of(head), V] of the weight's dtype.

    Rows are distributions without delta, rounded; projections where the head has a cap. Where there is no room for
    more, those of the text that was corrected the longest ago go. A block once made stays for other texts: to be given
    fresh memory by the system takes longer than what is computed into it.

    Args:
        size: bytes that they may take.
    """

    def __init__(self, size: int = KEPT_BYTES) -> None:
        self.size = size
        self._texts: OrderedDict[Hashable, _Text] = OrderedDict()
        self._free: list[Tensor] = []
        self._made = 0

    def batches(self, head: Head, lengths: Sequence[int]) -> Iterator[slice]:
        """Parts of texts, given their lengths, that there is room for together; one text at least."""
        begin, used = 0, 0
        for end, length in enumerate(lengths):
            blocks = _blocks(length, rows_of(head))
            if end > begin and used + blocks > self._room(head):
                yield slice(begin, end)
                begin, used = end, 0
            used += blocks
        yield slice(begin, len(lengths))

    def of(self, head: Head, name: Hashable, hidden: Tensor) -> Sequence[Tensor] | None:
        """The rows of a text with hidden states [T, D]; None if there is no room for so many."""
        length, rows = len(hidden), rows_of(head)
        if _blocks(length, rows) > self._room(head):
            return None
        text = self._texts.setdefault(name, _Text([]))
        self._texts.move_to_end(name)
        while len(text.blocks) * rows < length:
            text.blocks.append(self._block(head, rows))
        for some in torch.split(hidden[text.length :], PROJECTED_ROWS):
            projected = head.apply(some)
            for place in _places(text.blocks, rows, text.length, text.length + len(some)):
                place[:] = projected[: len(place)]
                projected = projected[len(place) :]
            text.length += len(some)
        if head.soft_cap is None:
            for place in _places(text.blocks, rows, text.distributions, length):
                place[:] = head.softmax_(head.finish(place.to(head.dtype)))
            text.distributions = max(text.distributions, length)
        return list(_places(text.blocks, rows, 0, length))

    def append(self, head: Head, name: Hashable, position: int, projected: Tensor) -> None:
        """The projection [V] at one more position of a text, if there is something kept for all positions before it."""
        text, rows = self._texts.get(name), rows_of(head)
        if text is None or text.length != position:
            return
        if position == len(text.blocks) * rows:
            if not self._free and self._made == self._room(head):
                return  # What is kept of others is worth more: they have it all.
            text.blocks.append(self._block(head, rows))
        text.blocks[position // rows][position % rows] = projected
        text.length += 1

    def drop(self, name: Hashable) -> None:
        """A text has ended, or nothing of it was kept."""
        if (text := self._texts.pop(name, None)) is not None:
            self._free += text.blocks

    def _block(self, head: Head, rows: int) -> Tensor:
        while not self._free and self._made == self._room(head):
            self.drop(next(iter(self._texts)))
        if self._free:
            return self._free.pop()
        self._made += 1
        return torch.empty(rows, len(head.weight), dtype=head.weight.dtype, device=head.weight.device)

    def _room(self, head: Head) -> int:
        """In blocks."""
        return self.size // (rows_of(head) * head.size * head.weight.itemsize)


@dataclass(slots=True)
class _Text:
    blocks: list[Tensor]
    length: int = 0
    """Positions with a row."""
    distributions: int = 0
    """Of them, those whose rows are distributions already."""


def rows_of(head: Head) -> int:
    """Positions in a block."""
    size = CPU_BLOCK_BYTES if head.weight.device.type == "cpu" else GPU_BLOCK_BYTES
    return max(1, min(BLOCK_ROWS, size // (head.size * head.dtype.itemsize)))


def _blocks(length: int, rows: int) -> int:
    return -(-length // rows)


def _places(blocks: Sequence[Tensor], rows: int, begin: int, end: int) -> Iterator[Tensor]:
    """The rows begin .. end - 1, block by block."""
    for number in range(begin // rows, _blocks(end, rows)):
        yield blocks[number][max(begin - number * rows, 0) : end - number * rows]
