"""The adapters of all rows of a batch in two dense products a layer, whatever the number of adapters.

The first weights of all slots stand below each other, [slots * rank, in], the second ones likewise, [slots * rank,
out]: a product with both would give every row the sum of all adapters. Between the two, a mask leaves each row what
is its own adapter's, and rows without one nothing. So weights are read once, not once for each row, and never copied.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

Tensor = torch.Tensor


class MaskedLoRA(PunicaWrapperCPU):
    """What vLLM's linear layers with adapters call, over the T rows of a batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batch: Adapted | None = None

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Takes the slots of the next batch's rows."""
        super().update_metadata(*args, **kwargs)
        self._batch = Adapted.of(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds to y, [T, sum(output_slices)], what each row's adapter makes of x, [T, in]."""
        if self._batch is None:
            return
        start = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            self._batch.add(y[:, start : start + width], x, a, b, scale)
            start += width


class Adapted:
    """The part of a batch from its first row with an adapter to its last.

    Args:
        slots: of each row of the batch, [T]; -1 for none. One row has an adapter at least.
    """

    def __init__(self, slots: Tensor) -> None:
        adapted = (slots >= 0).nonzero()
        self._rows = slice(int(adapted[0]), int(adapted[-1]) + 1)
        self._slots = slots[self._rows].clone()
        used = slots[adapted]
        self._used = slice(int(used.min()), int(used.max()) + 1)
        self._others: dict[int, Tensor] = {}
        self._views: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, slots: Tensor) -> "Adapted | None":
        """None for a batch without adapters."""
        return cls(slots) if bool((slots >= 0).any()) else None

    def add(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
        """Adds scale * x @ a.T @ b.T to y, each row with its own slot of a and b.

        Args:
            y: [T, out].
            x: [T, in].
            a: [slots, 1, rank, in].
            b: [slots, 1, out, rank].
            scale: of the product.
        """
        first, second = self._weights(a, b)
        shrunk = x[self._rows] @ first.to(x.dtype)
        # Filled, not multiplied: what another adapter overflows to would stay, as 0 * inf.
        shrunk.masked_fill_(self._of_others(a.shape[-2]), 0)
        y[self._rows].addmm_(shrunk.to(y.dtype), second.to(y.dtype), alpha=scale)

    def _weights(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the used slots, [in, used slots * rank] and [used slots * rank, out]."""
        # The same until the batch changes, and a view costs as much as a small product.
        if id(a) not in self._views:
            first = a[self._used, 0].flatten(0, 1).T
            self._views[id(a)] = first, b[self._used, 0].transpose(-1, -2).flatten(0, 1)
        return self._views[id(a)]

    def _of_others(self, rank: int) -> Tensor:
        """What of the first product is not of a row's own slot, [rows, used slots * rank]."""
        if rank not in self._others:
            used = torch.arange(self._used.start, self._used.stop, device=self._slots.device)
            self._others[rank] = (self._slots[:, None] != used).repeat_interleave(rank, dim=1)
        return self._others[rank]
