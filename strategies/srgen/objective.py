"""SRGen's correction in closed form (arXiv 2510.02919).

A vector delta, added to the last hidden state before the head, is fitted by a few steps of AdamW from zero to

    loss(delta) = (1 - lambda) CE(delta) + lambda H(delta)

CE is the mean cross-entropy of every next token so far, with delta added at each of its positions, at temperature 1; H
is the entropy of the next token at the sampling temperature tau.

The head is linear, W (h + delta) = W h + W delta: delta shifts the projections z_t of all positions alike, by
a = W delta.

    d CE / d delta  = W^T (mean_t softmax(z_t + a) - mean_t onehot(y_t))
    d H / d delta   = W^T (-(p / tau) (log p + H)),    p = softmax((z + a) / tau)

So a step takes one product with W and one with W^T, whatever the number of positions, and a pass over the z_t; or over
distributions without delta, p_t, as softmax(z_t + a) = e^a p_t / (p_t . e^a).

What a text's next correction needs again is kept: the sum of its gradients at delta = 0, which every first step starts
from, and, in a bounded memory that all texts share, the z_t or p_t.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.srgen.head import Head
from strategies.srgen.kept import PROJECTED_ROWS, Kept, has_distributions, rows_of

BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.999), 1e-5, 1e-8
"""AdamW's, as published."""
MOST_SHIFTED = 40.0
"""Between two logits: beyond, a token that a distribution has as 0 may become likely."""


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


def correct(head: Head, projected: Tensor, pasts: Sequence[Past], fit: Fit, kept: Kept | None = None) -> Correction:
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
    known = {
        past.text: past.hidden for past, most in zip(pasts, steps, strict=True) if most > 1 and past.text is not None
    }
    rows = {} if kept is None else kept.rows(head, known)
    crosses = [_CrossEntropy(head, past, rows.get(past.text)) for past in pasts]
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

    def __init__(self, head: Head, past: Past, rows: Sequence[Tensor] | None) -> None:
        self._head = head
        self._hidden = past.hidden
        local = past.labels - head.first_token
        inside = (local >= 0) & (local < len(head.weight))
        self._labels = torch.where(inside, local, 0)
        self._ones = inside.to(head.dtype)
        self._rows = rows

    def gradient(self, shift: Tensor, begin: int) -> Tensor:
        """With respect to the shift, [V], summed over the positions from `begin` on."""
        if self._rows is None:
            return self._by_projections(self._projected(begin), shift, begin)
        if not has_distributions(self._head):
            return self._by_projections(_rest(self._rows, begin), shift, begin)
        highest, lowest = self._head.shards.max(shift.amax()), -self._head.shards.max(-shift.amin())
        if float(highest - lowest) * self._head.scale > MOST_SHIFTED:
            return self._by_projections(self._projected(begin), shift, begin)
        return self._by_distributions(_rest(self._rows, begin), shift, begin)

    def _by_distributions(self, parts: Iterator[Tensor], shift: Tensor, begin: int) -> Tensor:
        head = self._head
        shift = shift * head.scale
        factor = (shift - head.shards.max(shift.amax())).exp()
        total, memory = torch.zeros_like(shift), self._memory(shift)
        for part in parts:
            p = memory[: len(part)].copy_(part)
            # Divided by their own sum, rounded distributions are distributions again.
            total.addmv_(p.t(), 1 / head.shards.sum(p @ factor))
        total.mul_(factor).index_add_(0, self._labels[begin:], -self._ones[begin:])
        return total * head.scale

    def _by_projections(self, parts: Iterator[Tensor], shift: Tensor, begin: int) -> Tensor:
        head = self._head
        total, memory = torch.zeros_like(shift), self._memory(shift)
        for part in parts:
            end = begin + len(part)
            shifted = torch.add(part, shift, out=memory[: len(part)])
            gradient = head.softmax_(head.finish(shifted))
            gradient.scatter_add_(1, self._labels[begin:end, None], -self._ones[begin:end, None])
            total += (gradient if head.soft_cap is None else gradient * head.slope(shifted)).sum(0)
            begin = end
        return total * head.scale if head.soft_cap is None else total

    def _projected(self, begin: int) -> Iterator[Tensor]:
        for some in torch.split(self._hidden[begin:], PROJECTED_ROWS):
            yield from torch.split(self._head.apply(some), rows_of(self._head))

    def _memory(self, shift: Tensor) -> Tensor:
        return shift.new_empty(rows_of(self._head), len(shift))


def _rest(parts: Sequence[Tensor], begin: int) -> Iterator[Tensor]:
    """The rows from `begin` on."""
    for part in parts:
        if begin < len(part):
            yield part[begin:]
        begin = max(begin - len(part), 0)


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
