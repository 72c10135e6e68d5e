"""What corrections keep of a text for its next one, which has but a few positions more."""

from collections import OrderedDict
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
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

    Where there is no room for more, those of the text that was corrected the longest ago go. A block once made stays
    for other texts, until there are none: to be given fresh memory by the system takes longer than what is computed
    into it.

    Args:
        size: bytes that they may take.
    """

    def __init__(self, size: int = KEPT_BYTES) -> None:
        self.size = size
        self._texts: OrderedDict[Hashable, _Text] = OrderedDict()
        self._free: list[Tensor] = []
        self._made = 0

    def rows(self, head: Head, texts: Mapping[Hashable, Tensor]) -> dict[Hashable, Sequence[Tensor]]:
        """The rows of all positions of some texts, given by their hidden states [T, D]: distributions where
        `has_distributions`, else projections. Texts that there is no room for beside the others are missing.
        """
        for name in texts.keys() & self._texts.keys():
            self._texts.move_to_end(name)
        found: dict[Hashable, Sequence[Tensor]] = {}
        for name, hidden in texts.items():
            if self._has_room(head, name, len(hidden), texts):
                self._fill(head, self._texts[name], hidden)
                found[name] = list(_places(self._texts[name].blocks, rows_of(head), 0, len(hidden)))
        return found

    def append(self, head: Head, name: Hashable, position: int, projected: Tensor) -> None:
        """The projection [V] at one more position of a text, if there is something kept for all positions before it."""
        text, rows = self._texts.get(name), rows_of(head)
        if text is None or text.length != position:
            return
        if position == len(text.blocks) * rows:
            if not self._free and self._made >= self._room(head):
                return  # What is kept of others is worth more: they have it all.
            text.blocks.append(self._block(head))
        text.blocks[position // rows][position % rows] = projected
        text.length += 1

    def drop(self, name: Hashable) -> None:
        """A text has ended, or nothing of it was kept."""
        if (text := self._texts.pop(name, None)) is not None:
            self._free += text.blocks
        if not self._texts:
            self._free, self._made = [], 0

    def _has_room(self, head: Head, name: Hashable, length: int, others: Container[Hashable]) -> bool:
        """Gives a text as many blocks as it needs, those of `others` left alone."""
        needed = _blocks(length, rows_of(head))
        if needed > self._room(head):
            return False
        text = self._texts.setdefault(name, _Text([]))
        while len(text.blocks) < needed:
            if not self._free and self._made >= self._room(head):
                oldest = next((one for one in self._texts if one not in others), None)
                self.drop(name if oldest is None else oldest)
                if oldest is None:
                    return False
            else:
                text.blocks.append(self._block(head))
        return True

    def _fill(self, head: Head, text: "_Text", hidden: Tensor) -> None:
        rows = rows_of(head)
        for some in torch.split(hidden[text.length :], PROJECTED_ROWS):
            projected = head.apply(some)
            for place in _places(text.blocks, rows, text.length, text.length + len(some)):
                place[:] = projected[: len(place)]
                projected = projected[len(place) :]
            text.length += len(some)
        if has_distributions(head):
            for place in _places(text.blocks, rows, text.distributions, len(hidden)):
                place[:] = head.softmax_(head.finish(place.to(head.dtype)))
            text.distributions = max(text.distributions, len(hidden))

    def _block(self, head: Head) -> Tensor:
        if self._free:
            return self._free.pop()
        self._made += 1
        return torch.empty(rows_of(head), len(head.weight), dtype=head.weight.dtype, device=head.weight.device)

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


def has_distributions(head: Head) -> bool:
    """Whether rows are distributions without delta, which take less to shift: not where there is a cap, nor where they
    would be less exact than projections are, with more bits, or lose what is unlikely, with float16's range.
    """
    return head.soft_cap is None and head.weight.dtype == torch.bfloat16


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
