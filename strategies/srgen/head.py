"""A language model's head, whole or this process's shard of its vocabulary."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear


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

    def largest(self, rows: int) -> int:
        """The rows of the largest shard, where this one has `rows`: what all of them must do alike goes by it."""
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

    def largest(self, rows: int) -> int:
        """Its own."""
        return rows


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
    def size(self) -> int:
        """Rows of the largest shard."""
        return self.shards.largest(len(self.weight))

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
