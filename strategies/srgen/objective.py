"""SRGen's correction in closed form (arXiv 2510.02919).

A vector delta, added to the last hidden state before the head, is fitted by a few steps of AdamW from zero to

    loss(delta) = (1 - lambda) CE(delta) + lambda H(delta)

CE is the mean cross-entropy of every next token so far, with delta added at each of its positions, at temperature 1; H
is the entropy of the next token at the sampling temperature tau.

The head is linear, W (h + delta) = W h + W delta: delta shifts the logits of all positions alike, by a = W delta. With
p_t the distribution at position t without delta,

    softmax(W (h_t + delta)) = e^a p_t / (p_t . e^a)
    d CE / d delta           = W^T (mean_t softmax(W (h_t + delta)) - mean_t onehot(y_t))
    d H / d delta            = W^T (-(p / tau) (log p + H)),    p = softmax(W (h + delta) / tau)

So a step takes two products of all p_t with a vector, and one product with W^T, whatever the number of positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.999), 1e-5, 1e-8
"""AdamW's, as published."""

WORKSPACE_BYTES = 384 * 2**20
"""What the distributions of all positions of the activations solved at once may take. Those of longer texts are made
anew in every step, a part at a time.
"""
LOGITS_ROWS = 256
"""Positions whose logits are made at once."""


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

    def project(self, hidden: Tensor) -> Tensor:
        """W h + b, [..., V]."""
        return linear(hidden.to(self.weight.dtype), self.weight, self.bias).to(self.dtype)

    def unfinish(self, logits: Tensor, hidden: Tensor) -> Tensor:
        """Projections of hidden states [A, D] whose logits [A, V], of the whole vocabulary, are known."""
        if self.soft_cap is not None:
            return self.project(hidden)  # Near its bound, a cap cannot be undone.
        return logits[:, self.first_token : self.first_token + len(self.weight)].to(self.dtype) / self.scale

    def shift(self, delta: Tensor) -> Tensor:
        """W delta, [..., V]: what delta adds to every projection."""
        return linear(delta.to(self.weight.dtype), self.weight).to(self.dtype)

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
        """W^T g, [..., D], of gradients with respect to projections [..., V]."""
        return self.shards.sum((gradient.to(self.weight.dtype) @ self.weight).to(self.dtype))

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Over the whole vocabulary, for the rows of this shard."""
        if isinstance(self.shards, OneShard):
            return torch.log_softmax(logits, -1)
        logits = logits - self.shards.max(logits.amax(-1, keepdim=True))
        return logits - self.shards.sum(logits.exp().sum(-1, keepdim=True)).log()

    def distributions(self, hidden: Tensor, logits: Tensor, out: Tensor) -> None:
        """Of the next tokens at hidden states [T, D], into `out` [T, V]; `logits` [T, V] is overwritten."""
        torch.mm(hidden.to(self.weight.dtype), self.weight.t(), out=logits)
        if self.bias is not None:
            logits += self.bias
        out.copy_(self.finish(logits))
        if isinstance(self.shards, OneShard):
            torch.softmax(out, -1, out=out)
        else:
            torch.exp(self.log_softmax(out), out=out)

    def entropy(self, logits: Tensor) -> Tensor:
        """In nats, [...]."""
        return self._entropy(self.log_softmax(logits))

    def entropy_gradient(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """D H(logits / temperature) / d logits."""
        log_p = self.log_softmax(logits / temperature)
        return -(log_p.exp() / temperature) * (log_p + self._entropy(log_p)[..., None])

    def count(self, tokens: Tensor) -> Tensor:
        """How often each token of this shard occurs, [V]."""
        local = tokens - self.first_token
        size = len(self.weight)
        local = local[(local >= 0) & (local < size)]
        return torch.zeros(size, dtype=self.dtype, device=tokens.device).index_add_(
            0, local, torch.ones(1, dtype=self.dtype, device=tokens.device).expand(len(local))
        )

    def _entropy(self, log_p: Tensor) -> Tensor:
        return -self.shards.sum((log_p.exp() * log_p).sum(-1))


@dataclass(frozen=True, slots=True)
class Past:
    """What the cross-entropy is taken over.

    Of earlier positions the sum of their first gradients may stand for them, where there is but one step.

    Args:
        hidden: [T, D], the backbone's output at each position.
        labels: [T], the token that came next.
        before: [D], the sum of the gradients at delta = 0 of earlier positions; zero if there are none.
        earlier: their number.
    """

    hidden: Tensor
    labels: Tensor
    before: Tensor | None = None
    earlier: int = 0


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
        sums: [A, D], the gradients of CE at delta = 0, summed over all positions: `before` of a later fit.
    """

    delta: Tensor
    logits: Tensor
    entropy: Tensor
    sums: Tensor


class Workspace:
    """Memory for the rows of many positions, kept from one correction to the next: to be given fresh memory by the
    system takes longer than what is computed into it.
    """

    def __init__(self) -> None:
        self._distributions = torch.empty(0)
        self._logits = torch.empty(0)

    @staticmethod
    def room(head: Head) -> int:
        """Positions that it holds at most."""
        return max(1, WORKSPACE_BYTES // (len(head.weight) * head.dtype.itemsize))

    def reserve(self, head: Head, positions: int) -> tuple[Tensor, Tensor]:
        """Memory for distributions [positions or more, V], and for logits [LOGITS_ROWS, V]."""
        self._distributions = self._grown(self._distributions, head, positions, head.dtype)
        self._logits = self._grown(self._logits, head, LOGITS_ROWS, head.weight.dtype)
        return self._distributions, self._logits

    def _grown(self, memory: Tensor, head: Head, rows: int, dtype: torch.dtype) -> Tensor:
        size = len(head.weight)
        if memory.dim() == 2 and len(memory) >= rows and (memory.shape[1], memory.dtype) == (size, dtype):
            return memory
        # By powers of two, lest a text that grows has it made anew at each correction.
        rows = max(rows, min(self.room(head), 1 << (rows - 1).bit_length()))
        return torch.empty(rows, size, dtype=dtype, device=head.weight.device)


def batches(head: Head, lengths: Sequence[int]) -> Iterator[slice]:
    """Parts of activations, given the lengths of their pasts, that fit the workspace together; one at least."""
    room = Workspace.room(head)
    begin, used = 0, 0
    for end, length in enumerate(lengths):
        if end > begin and used + length > room:
            yield slice(begin, end)
            begin, used = end, 0
        used += length
    yield slice(begin, len(lengths))


def correct(
    head: Head, projected: Tensor, pasts: Sequence[Past], fit: Fit, workspace: Workspace | None = None
) -> Correction:
    """Fits delta for A activations at once.

    Args:
        head: the model's head.
        projected: [A, V], projections of the current positions.
        pasts: A texts so far.
        fit: A settings.
        workspace: what an earlier correction was computed in, None for a new one.
    """
    temperature, weight = fit.temperature[:, None], fit.entropy_weight[:, None]
    crosses = list(_cross_entropies(head, pasts, workspace or Workspace()))
    positions = projected.new_tensor([[len(past.hidden) + past.earlier] for past in pasts])
    nothing = projected.new_zeros(head.weight.shape[1])
    sums = torch.stack([nothing if past.before is None else past.before for past in pasts])
    optimizer = _AdamW(torch.zeros_like(sums), fit.learning_rate[:, None])
    shift = torch.zeros_like(projected)
    for step in range(int(fit.steps.max())):
        shifted = projected + shift
        cross = torch.stack([cross.gradient(one) for cross, one in zip(crosses, shift, strict=True)])
        entropy = head.entropy_gradient(head.finish(shifted), temperature) * head.slope(shifted)
        gradient = (1 - weight) * cross / positions + weight * entropy
        if step == 0:
            # Together: to read W takes most of the time.
            first, own = head.pull_back(torch.cat([gradient, cross])).chunk(2)
            optimizer.update(first + (1 - weight) * sums / positions, fit.steps[:, None] > 0)
            sums = sums + own
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


def _cross_entropies(head: Head, pasts: Sequence[Past], workspace: Workspace) -> "Iterator[_CrossEntropy]":
    room = workspace.room(head)
    parts = [min(len(past.hidden), room) for past in pasts]
    distributions, logits = workspace.reserve(head, max(1, sum(parts)))
    for past, memory in zip(pasts, torch.split(distributions[: sum(parts)], parts), strict=True):
        yield _CrossEntropy(head, past, memory, logits)


class _CrossEntropy:
    """The cross-entropy of one text, summed over its positions, as a function of the shift a = W delta.

    Distributions without delta stand in `memory` [some positions, V], made once if all fit; projections where the head
    is not linear.
    """

    def __init__(self, head: Head, past: Past, memory: Tensor, logits: Tensor) -> None:
        self._head = head
        self._hidden = past.hidden
        self._labels = past.labels
        self._counts = head.count(past.labels)
        self._memory = memory
        self._logits = logits
        self._kept = [memory] if len(past.hidden) == len(memory) else None
        if self._kept is not None:
            self._make(past.hidden)

    def gradient(self, shift: Tensor) -> Tensor:
        """With respect to the shift, [V]: the gradients at all positions, summed."""
        total = -self._counts if self._head.soft_cap is None else torch.zeros_like(self._counts)
        begin = 0
        for part in self._kept or map(self._make, torch.split(self._hidden, len(self._memory))):
            if self._head.soft_cap is None:
                total += self._shifted_sum(part, shift)
            else:
                total += self._capped_sum(part + shift, self._labels[begin : begin + len(part)])
            begin += len(part)
        return total * self._head.scale if self._head.soft_cap is None else total

    def _make(self, hidden: Tensor) -> Tensor:
        """Of some positions, in the memory for them."""
        made = self._memory[: len(hidden)]
        for some, out in zip(torch.split(hidden, LOGITS_ROWS), torch.split(made, LOGITS_ROWS), strict=True):
            if self._head.soft_cap is None:
                self._head.distributions(some, self._logits[: len(some)], out)
            else:
                out.copy_(self._head.project(some))
        return made

    def _shifted_sum(self, distributions: Tensor, shift: Tensor) -> Tensor:
        """sum_t e^a p_t / (p_t . e^a), [V]."""
        shift = shift * self._head.scale
        factor = (shift - self._head.shards.max(shift.amax())).exp()
        return factor * ((1 / self._head.shards.sum(distributions @ factor)) @ distributions)

    def _capped_sum(self, projected: Tensor, labels: Tensor) -> Tensor:
        gradient = self._head.log_softmax(self._head.finish(projected)).exp_()
        local = labels - self._head.first_token
        rows = ((local >= 0) & (local < gradient.shape[1])).nonzero()[:, 0]
        gradient[rows, local[rows]] -= 1
        return (gradient * self._head.slope(projected)).sum(0)


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
