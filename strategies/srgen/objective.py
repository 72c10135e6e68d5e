"""SRGen's correction in closed form (arXiv 2510.02919).

A vector delta, added to the last hidden state before the head, is fitted by a few steps of AdamW from zero to

    loss(delta) = (1 - lambda) CE(delta) + lambda H(delta)

CE is the mean cross-entropy of every next token so far, with delta added at each of its positions, at temperature 1; H
is the entropy of the next token at the sampling temperature tau.

The head is linear, W (h + delta) = W h + W delta: delta shifts the projections z_t of all positions alike, by
a = W delta.

    d CE / d delta  = W^T (mean_t softmax(z_t + a) - mean_t onehot(y_t))
    d H / d delta   = W^T (-(p / tau) (log p + H)),    p = softmax((z + a) / tau)

So a step takes one product with W and one with W^T, whatever the number of positions, and a softmax at each of them.

What a text's next correction needs again is kept: the sum of its gradients at delta = 0, which every first step starts
from, and, in a memory that all texts share, projections of its positions.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.999), 1e-5, 1e-8
"""AdamW's, as published."""

PROJECTIONS_BYTES = 512 * 2**20
"""What the kept projections of all texts may take, where there is plenty of memory."""
PROJECTED_ROWS = 256
"""Positions that are projected at once: enough that W is not read too often."""
CPU_BLOCK_BYTES, GPU_BLOCK_BYTES = 3 * 2**20, 64 * 2**20
"""Of distributions that are computed at once. A CPU has them in its cache from one operation to the next."""
BLOCK_ROWS = 64
"""Positions in a block at most."""


class Shards(Protocol):
    """What vocabulary shards must tell each other; one shard has nothing to tell."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all shards."""
        ...

    def max(self, values: Tensor) -> Tensor:
        """The maximum over all shards."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """Parts [..., V / shards] put together in the order of the vocabulary, [..., V]."""
        ...


class OneShard:
    """The whole vocabulary is here."""

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def max(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def gather(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values


ONE_SHARD = OneShard()


@dataclass(frozen=True, slots=True)
class Head:
    """A language model's head: logits = scale cap(W h + b), where cap(x) = soft_cap tanh(x / soft_cap) if there is one.

    Args:
        weight: [V, D], the rows of this shard.
        bias: [V].
        soft_cap: bound of the logits before the scale, None for none.
        scale: factor of the logits.
        first_token: the token of the first row.
        shards: the other rows.
    """

    weight: Tensor
    bias: Tensor | None = None
    soft_cap: float | None = None
    scale: float = 1.0
    first_token: int = 0
    shards: Shards = ONE_SHARD

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in beyond the products with W: at least single precision."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    def times(self, vectors: Tensor) -> Tensor:
        """W x of vectors [N, D] in the weight's dtype, [N, V]."""
        return linear(vectors, self.weight)

    def transposed_times(self, vectors: Tensor) -> Tensor:
        """W^T x of vectors [N, V] in the weight's dtype, [N, D]."""
        return vectors @ self.weight

    def apply(self, hidden: Tensor) -> Tensor:
        """W h + b of hidden states [T, D] in the weight's dtype, [T, V]."""
        projected = self.times(hidden.to(self.weight.dtype))
        return projected if self.bias is None else projected + self.bias

    def project(self, hidden: Tensor) -> Tensor:
        """The same in the dtype that is computed in."""
        return self.apply(hidden).to(self.dtype)

    @property
    def is_product(self) -> bool:
        """Whether logits are projections as they are."""
        return self.soft_cap is None and self.scale == 1.0

    def own(self, logits: Tensor) -> Tensor:
        """Those of this shard of logits of the whole vocabulary, [..., V]."""
        return logits[..., self.first_token : self.first_token + len(self.weight)]

    def unfinish(self, logits: Tensor, hidden: Tensor) -> Tensor:
        """Projections of hidden states [A, D] whose logits [A, V], of the whole vocabulary, are known."""
        # Near its bound, a cap cannot be undone.
        return self.own(logits).to(self.dtype) if self.is_product else self.project(hidden)

    def shift(self, delta: Tensor) -> Tensor:
        """W delta of [A, D], [A, V]: what delta adds to every projection."""
        return self.times(delta.to(self.weight.dtype)).to(self.dtype)

    def finish(self, projected: Tensor) -> Tensor:
        """Logits of projections."""
        if self.soft_cap is not None:
            projected = self.soft_cap * torch.tanh(projected / self.soft_cap)
        return projected * self.scale if self.scale != 1.0 else projected

    def slope(self, projected: Tensor) -> Tensor | float:
        """D logits / d projection."""
        if self.soft_cap is None:
            return self.scale
        return self.scale * (1 - torch.tanh(projected / self.soft_cap) ** 2)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """W^T g, [A, D], of gradients with respect to projections [A, V]."""
        return self.shards.sum(self.transposed_times(gradient.to(self.weight.dtype)).to(self.dtype))

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Over the whole vocabulary, for the rows of this shard."""
        if isinstance(self.shards, OneShard):
            return torch.log_softmax(logits, -1)
        logits = logits - self.shards.max(logits.amax(-1, keepdim=True))
        return logits - self.shards.sum(logits.exp().sum(-1, keepdim=True)).log()

    def softmax_(self, logits: Tensor) -> Tensor:
        """Over the whole vocabulary, for the rows of this shard, in place of logits [T, V]."""
        if isinstance(self.shards, OneShard):
            return torch.softmax(logits, -1, out=logits)
        return torch.exp(self.log_softmax(logits), out=logits)

    def entropy(self, logits: Tensor) -> Tensor:
        """In nats, [...]."""
        return self._entropy(self.log_softmax(logits))

    def entropy_gradient(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """D H(logits / temperature) / d logits."""
        log_p = self.log_softmax(logits / temperature)
        return -(log_p.exp() / temperature) * (log_p + self._entropy(log_p)[..., None])

    def _entropy(self, log_p: Tensor) -> Tensor:
        return -self.shards.sum((log_p.exp() * log_p).sum(-1))


@dataclass(frozen=True, slots=True)
class Past:
    """What the cross-entropy is taken over.

    Args:
        hidden: [T, D], the backbone's output at each position.
        labels: [T], the token that came next.
        sums: [D], the sum of the gradients at delta = 0 at the first `summed` positions; None for zero.
        summed: their number.
        text: whose positions they are, for what is kept of them; None to keep nothing.
    """

    hidden: Tensor
    labels: Tensor
    sums: Tensor | None = None
    summed: int = 0
    text: Hashable | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """How each of A activations is fitted.

    Args:
        entropy_weight: [A], lambda.
        temperature: [A], tau.
        learning_rate: [A].
        steps: [A], updates.
    """

    entropy_weight: Tensor
    temperature: Tensor
    learning_rate: Tensor
    steps: Tensor


@dataclass(frozen=True, slots=True)
class Correction:
    """The result for A activations.

    Args:
        delta: [A, D].
        logits: [A, V], what delta changes the logits by, over the whole vocabulary.
        entropy: [A], in nats, at the sampling temperature, with delta.
        sums: [A, D], the gradients of CE at delta = 0, summed over all positions, for a later fit.
    """

    delta: Tensor
    logits: Tensor
    entropy: Tensor
    sums: Tensor


class Projections:
    """Projections of the positions of texts, kept in blocks for their next corrections, as many as there is room for.

    Where there is no room for more, those of the text that was corrected the longest ago go. A block once made is kept
    for other texts: to be given fresh memory by the system takes longer than what is computed into it.

    Args:
        size: bytes that they may take.
    """

    def __init__(self, size: int = PROJECTIONS_BYTES) -> None:
        self.size = size
        self._texts: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._free: list[Tensor] = []
        self._made = 0

    def batches(self, head: Head, lengths: Sequence[int]) -> Iterator[slice]:
        """Parts of texts, given their lengths, that there is room for together; one text at least."""
        begin, used = 0, 0
        for end, length in enumerate(lengths):
            blocks = -(-length // rows_of(head))
            if end > begin and used + blocks > self._room(head):
                yield slice(begin, end)
                begin, used = end, 0
            used += blocks
        yield slice(begin, len(lengths))

    def of(self, head: Head, past: Past) -> Sequence[Tensor] | None:
        """Those of all positions of a text, in blocks [rows_of(head) or less, V]; None if there is no room for them."""
        length, rows = len(past.hidden), rows_of(head)
        if past.text is None or -(-length // rows) > self._room(head):
            return None
        kept = self._texts.setdefault(past.text, _Kept([], 0))
        self._texts.move_to_end(past.text)
        while len(kept.blocks) * rows < length:
            kept.blocks.append(self._block(head, rows))
        for some in torch.split(past.hidden[kept.length :], PROJECTED_ROWS):
            projected = head.apply(some)
            while len(projected):
                block, row = kept.blocks[kept.length // rows], kept.length % rows
                taken = min(len(projected), rows - row)
                block[row : row + taken] = projected[:taken]
                projected = projected[taken:]
                kept.length += taken
        return [block[: length - i * rows] for i, block in enumerate(kept.blocks[: -(-length // rows)])]

    def append(self, head: Head, text: Hashable, position: int, projected: Tensor) -> None:
        """The projection [V] at one more position of a text, if those at all positions before it are kept."""
        kept, rows = self._texts.get(text), rows_of(head)
        if kept is None or kept.length != position:
            return
        if position == len(kept.blocks) * rows:
            if not self._free and self._made == self._room(head):
                return  # What is kept of others is worth more: they have it all.
            kept.blocks.append(self._block(head, rows))
        kept.blocks[position // rows][position % rows] = projected
        kept.length += 1

    def drop(self, text: Hashable) -> None:
        """A text has ended, or nothing of it was kept."""
        if (kept := self._texts.pop(text, None)) is not None:
            self._free += kept.blocks

    def _block(self, head: Head, rows: int) -> Tensor:
        while not self._free and self._made == self._room(head):
            self.drop(next(iter(self._texts)))
        if self._free:
            return self._free.pop()
        self._made += 1
        return torch.empty(rows, len(head.weight), dtype=head.weight.dtype, device=head.weight.device)

    def _room(self, head: Head) -> int:
        """In blocks."""
        return self.size // (rows_of(head) * len(head.weight) * head.weight.itemsize)


@dataclass(slots=True)
class _Kept:
    blocks: list[Tensor]
    length: int
    """Positions in them."""


def rows_of(head: Head) -> int:
    """Positions in a block."""
    size = CPU_BLOCK_BYTES if head.weight.device.type == "cpu" else GPU_BLOCK_BYTES
    return max(1, min(BLOCK_ROWS, size // (len(head.weight) * head.dtype.itemsize)))


def correct(
    head: Head, projected: Tensor, pasts: Sequence[Past], fit: Fit, kept: Projections | None = None
) -> Correction:
    """Fits delta for A activations at once.

    Args:
        head: the model's head.
        projected: [A, V], projections of the current positions.
        pasts: A texts so far.
        fit: A settings.
        kept: what earlier corrections have kept, None for nothing.
    """
    steps = fit.steps.tolist()
    temperature, weight = fit.temperature[:, None], fit.entropy_weight[:, None]
    crosses = [_CrossEntropy(head, past, kept if most > 1 else None) for past, most in zip(pasts, steps, strict=True)]
    positions = projected.new_tensor([[len(past.hidden)] for past in pasts])
    nothing = projected.new_zeros(head.weight.shape[1])
    sums = torch.stack([nothing if past.sums is None else past.sums for past in pasts])
    optimizer = _AdamW(torch.zeros_like(sums), fit.learning_rate[:, None])
    shift = torch.zeros_like(projected)
    for step in range(max(steps)):
        shifted = projected + shift
        entropy = head.entropy_gradient(head.finish(shifted), temperature) * head.slope(shifted)
        cross = torch.zeros_like(projected)
        for row, past in enumerate(pasts):
            if step < steps[row]:
                cross[row] = crosses[row].gradient(shift[row], past.summed if step == 0 else 0)
        gradient = (1 - weight) * cross / positions + weight * entropy
        if step == 0:
            # Together: to read W takes most of the time.
            first, new = head.pull_back(torch.cat([gradient, cross])).chunk(2)
            optimizer.update(first + (1 - weight) * sums / positions, fit.steps[:, None] > 0)
            sums = sums + new
        else:
            optimizer.update(head.pull_back(gradient), step < fit.steps[:, None])
        shift = head.shift(optimizer.parameter)
    corrected = head.finish(projected + shift)
    return Correction(
        optimizer.parameter,
        head.shards.gather(corrected - head.finish(projected)),
        head.entropy(corrected / temperature),
        sums,
    )


class _CrossEntropy:
    """The cross-entropy of one text, summed over positions, as a function of the shift a = W delta."""

    def __init__(self, head: Head, past: Past, kept: Projections | None) -> None:
        self._head = head
        self._hidden = past.hidden
        local = past.labels - head.first_token
        inside = (local >= 0) & (local < len(head.weight))
        self._labels = torch.where(inside, local, 0)[:, None]
        self._ones = inside.to(head.dtype)[:, None]
        self._blocks = None if kept is None else kept.of(head, past)

    def gradient(self, shift: Tensor, begin: int) -> Tensor:
        """With respect to the shift, [V], summed over the positions from `begin` on."""
        head = self._head
        total = torch.zeros_like(shift)
        memory = shift.new_empty(rows_of(head), len(shift))
        for projected in self._projections(begin):
            end = begin + len(projected)
            shifted = torch.add(projected, shift, out=memory[: len(projected)])
            gradient = head.softmax_(head.finish(shifted))
            gradient.scatter_add_(1, self._labels[begin:end], -self._ones[begin:end])
            total += (gradient if head.soft_cap is None else gradient * head.slope(shifted)).sum(0)
            begin = end
        return total * head.scale if head.soft_cap is None else total

    def _projections(self, begin: int) -> Iterator[Tensor]:
        rows = rows_of(self._head)
        if self._blocks is None:
            for some in torch.split(self._hidden[begin:], PROJECTED_ROWS):
                yield from torch.split(self._head.apply(some), rows)
        else:
            first, row = divmod(begin, rows)
            for block in self._blocks[first:]:
                yield block[row:]
                row = 0


class _AdamW:
    """torch.optim.AdamW on [A, D], by rows, which may have their own learning rates and numbers of steps."""

    def __init__(self, parameter: Tensor, learning_rate: Tensor) -> None:
        self.parameter = parameter
        self._learning_rate = learning_rate
        self._first = torch.zeros_like(parameter)
        self._second = torch.zeros_like(parameter)
        self._steps = 0

    def update(self, gradient: Tensor, rows: Tensor) -> None:
        """One step of the rows [A, 1] that are true."""
        self._steps += 1
        self._first.lerp_(gradient, 1 - BETAS[0])
        self._second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        first = self._first / (1 - BETAS[0] ** self._steps)
        second = (self._second / (1 - BETAS[1] ** self._steps)).sqrt_()
        decayed = self.parameter * (1 - self._learning_rate * WEIGHT_DECAY)
        updated = decayed - self._learning_rate * first / (second + EPSILON)
        self.parameter = torch.where(rows, updated, self.parameter)
