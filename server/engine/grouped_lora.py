"""The adapters of all rows of a batch in two batched products a layer, whatever the number of adapters.

Rows are gathered by adapter. A layer made of several (query, key and value) has the first weights of all its parts next
to each other, [slots, parts * rank, in], and the second ones on a diagonal, [slots, parts * rank, out]; so one product
serves them all. Weights are read once, not once for each row, and never copied.
"""

from collections.abc import Sequence
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

Tensor = torch.Tensor
Parts = tuple[Tensor, ...]


class GroupedLoRA(PunicaWrapperCPU):
    """What vLLM's linear layers with adapters call, over the T rows of a batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batch: Sequence[Adapted] = ()

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Takes the slots of the next batch's rows."""
        super().update_metadata(*args, **kwargs)
        self._batch = Adapted.all_of(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Parts,
        lora_b_stacked: Parts,
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: Parts | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds to y, [T, sum(output_slices)], what each row's adapter makes of x, [T, in]."""
        for rows in self._batch:
            rows.add(y, x, lora_a_stacked, lora_b_stacked, scale)


def laid_out(a: Parts, b: Parts) -> tuple[Parts, Parts]:
    """The weights of a layer's parts as this module reads them, zero.

    Args:
        a: of each part [slots, 1, rank, in].
        b: of each part [slots, 1, its share of out, rank].

    Returns:
        Views of the same shapes into two tensors: [slots, parts * rank, in] and [slots, parts * rank, out].
    """
    first = a[0].new_zeros(len(a[0]), sum(part.shape[2] for part in a), a[0].shape[3])
    second = b[0].new_zeros(len(b[0]), sum(part.shape[3] for part in b), sum(part.shape[2] for part in b))
    own_a, own_b, row, column = [], [], 0, 0
    for part in b:
        width, rank = part.shape[2:]
        own_a.append(first[:, None, row : row + rank])
        own_b.append(second[:, None, row : row + rank, column : column + width].mT)
        row, column = row + rank, column + width
    return tuple(own_a), tuple(own_b)


class Adapted:
    """The rows of a batch that have an adapter, by adapter.

    Args:
        slots: of each row of the batch, [T]; -1 for none. One row has an adapter at least.
    """

    def __init__(self, slots: Tensor) -> None:
        adapted = (slots >= 0).nonzero()[:, 0]
        own, order = slots[adapted].sort(stable=True)
        self._rows = adapted[order]
        first = int(own[0])
        sizes = torch.bincount(own - first)
        self._groups, self._largest = len(sizes), int(sizes.max())
        self._used = slice(first, first + self._groups)
        # Every group has as many places as the largest; those that stay empty hold some row, and count for nothing.
        places = torch.arange(self._largest, device=slots.device) < sizes[:, None]
        self._filled = None if bool(places.all()) else places.flatten().nonzero()[:, 0]
        self._gathered = self._rows[0].repeat(self._groups * self._largest)
        self._gathered[places.flatten()] = self._rows
        # Already as they are needed, where one long prompt is all that there is.
        begin, end = int(self._rows[0]), int(self._rows[-1]) + 1
        in_place = self._filled is None and bool((self._rows == torch.arange(begin, begin + len(self._rows))).all())
        self._range = slice(begin, end) if in_place else None
        self._views: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def all_of(cls, slots: Tensor) -> "Sequence[Adapted]":
        """None for a batch without adapters; several where one adapter has many more rows than the others (a prompt
        beside answers), or slots between two are empty: at most every second row of a product counts for nothing.
        """
        found = []
        while bool((slots >= 0).any()):
            own = slots[slots >= 0]
            sizes = torch.bincount(own)
            largest = int(sizes.argmax())
            if (len(sizes) - int(own.min())) * int(sizes[largest]) <= 2 * len(own):
                found.append(cls(slots))
                break
            others = torch.where(slots == largest, -1, slots)
            found.append(cls(torch.where(slots == largest, slots, -1)))
            slots = others
        return found

    def add(self, y: Tensor, x: Tensor, a: Parts, b: Parts, scale: float) -> None:
        """Adds scale * x @ a.T @ b.T to y, each row with its own slot of a and b.

        Args:
            y: [T, out].
            x: [T, in].
            a: from `laid_out`.
            b: from `laid_out`.
            scale: of the product.
        """
        first, second = self._weights(a, b)
        mine = x.index_select(0, self._gathered) if self._range is None else x[self._range]
        made = torch.bmm(torch.bmm(mine.reshape(self._groups, self._largest, -1), first), second).flatten(0, 1)
        if self._range is not None:
            y[self._range].add_(made, alpha=scale)
            return
        made = made if self._filled is None else made[self._filled]
        # To add by index would sort the rows first, in threads that wait for each other.
        y.index_copy_(0, self._rows, y.index_select(0, self._rows).add_(made, alpha=scale))

    def _weights(self, a: Parts, b: Parts) -> tuple[Tensor, Tensor]:
        """Of the used slots and of all parts, [used, in, parts * rank] and [used, parts * rank, out]."""
        # The same until the batch changes, and a view costs as much as a small product.
        if id(a[0]) not in self._views:
            self._views[id(a[0])] = _whole(a)[self._used].mT, _whole(tuple(part.mT for part in b))[self._used]
        return self._views[id(a[0])]


def _whole(parts: Parts) -> Tensor:
    """What `laid_out` made views of: [slots, parts * rank, width]."""
    slots, _, rank, _ = parts[0].shape
    by_slot, _, by_row, by_column = parts[0].stride()
    return parts[0].as_strided((slots, len(parts) * rank, by_row // by_column), (by_slot, by_row, by_column))
