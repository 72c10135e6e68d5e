"""The closed form against autograd and torch's own AdamW, and in parts against the whole."""

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from strategies.srgen.head import Head
from strategies.srgen.kept import Kept
from strategies.srgen.objective import Correction, Fit, Past, correct

VOCABULARY, SIZE = 97, 24
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-5}


def head_of(dtype: torch.dtype, seed: int = 0, **options: Any) -> Head:
    generator = torch.Generator().manual_seed(seed)
    return Head(torch.randn(VOCABULARY, SIZE, generator=generator, dtype=dtype) * 0.3, **options)


def texts_of(dtype: torch.dtype, lengths: list[int], seed: int = 1) -> tuple[Tensor, list[Past]]:
    generator = torch.Generator().manual_seed(seed)
    pasts = [
        Past(
            torch.randn(length, SIZE, generator=generator, dtype=dtype) * 2,
            torch.randint(VOCABULARY, (length,), generator=generator),
        )
        for length in lengths
    ]
    return torch.randn(len(lengths), SIZE, generator=generator, dtype=dtype) * 2, pasts


def fit_of(count: int, dtype: torch.dtype, **values: list[float]) -> Fit:
    defaults = {"entropy_weight": 0.05, "temperature": 1.0, "learning_rate": 0.01, "steps": 3}
    tensors = {name: torch.tensor(values.get(name, [value] * count)) for name, value in defaults.items()}
    steps = tensors.pop("steps").long()
    return Fit(**{name: tensor.to(dtype) for name, tensor in tensors.items()}, steps=steps)


def reference(logits_of: Callable[[Tensor], Tensor], last: Tensor, past: Past, fit: Fit, row: int) -> Tensor:
    """delta by autograd."""
    delta = torch.zeros(SIZE, dtype=last.dtype, requires_grad=True)
    rate, weight, tau = (float(values[row]) for values in (fit.learning_rate, fit.entropy_weight, fit.temperature))
    optimizer = torch.optim.AdamW([delta], lr=rate, eps=1e-5, weight_decay=1e-8)
    for _ in range(int(fit.steps[row])):
        optimizer.zero_grad()
        cross = torch.nn.functional.cross_entropy(logits_of(past.hidden + delta), past.labels)
        log_p = torch.log_softmax(logits_of(last + delta) / tau, -1)
        loss = (1 - weight) * cross - weight * (log_p.exp() * log_p).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return delta.detach()


def compare(
    head: Head, logits_of: Callable[[Tensor], Tensor], dtype: torch.dtype, fit: Fit, lengths: list[int]
) -> None:
    last, pasts = texts_of(dtype, lengths)
    found = correct(head, head.project(last), pasts, fit)
    for row, past in enumerate(pasts):
        delta = reference(logits_of, last[row], past, fit, row)
        assert (found.delta[row] - delta).abs().max() < TOLERANCE[dtype]
        changed = logits_of(last[row] + delta) - logits_of(last[row])
        assert (found.logits[row] - changed).abs().max() < TOLERANCE[dtype]
        p = torch.softmax(logits_of(last[row] + delta) / fit.temperature[row], -1)
        assert math.isclose(found.entropy[row], -(p * p.log()).sum(), abs_tol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_delta_is_autograds(dtype: torch.dtype, steps: int) -> None:
    head = head_of(dtype)
    fit = fit_of(3, dtype, steps=[steps] * 3)
    compare(head, lambda hidden: hidden @ head.weight.T, dtype, fit, [1, 17, 60])


def test_rows_have_settings_of_their_own() -> None:
    head = head_of(torch.float64)
    fit = fit_of(
        4,
        torch.float64,
        steps=[1, 4, 2, 3],
        temperature=[0.5, 1, 1.5, 0.7],
        learning_rate=[0.01, 0.05, 0.1, 0.02],
        entropy_weight=[0, 1, 0.5, 0.05],
    )
    compare(head, lambda hidden: hidden @ head.weight.T, torch.float64, fit, [5, 9, 1, 30])


@pytest.mark.parametrize(("soft_cap", "scale"), [(3.0, 1.0), (None, 0.25), (5.0, 0.5)])
def test_heads_that_cap_and_scale(soft_cap: float | None, scale: float) -> None:
    bias = torch.linspace(-1, 1, VOCABULARY, dtype=torch.float64)
    head = head_of(torch.float64, bias=bias, soft_cap=soft_cap, scale=scale)

    def logits_of(hidden: Tensor) -> Tensor:
        raw = hidden @ head.weight.T + bias
        return scale * (raw if soft_cap is None else soft_cap * torch.tanh(raw / soft_cap))

    compare(head, logits_of, torch.float64, fit_of(2, torch.float64), [8, 40])


@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_earlier_gradients_are_not_computed_again(soft_cap: float | None) -> None:
    head = head_of(torch.float64, soft_cap=soft_cap, scale=0.5)
    last, (past, other) = texts_of(torch.float64, [50, 7])
    fit = fit_of(2, torch.float64, steps=[1, 3])
    whole = correct(head, head.project(last), [past, other], fit)
    first = correct(head, head.project(last), [Past(past.hidden[:20], past.labels[:20]), other], fit)
    pasts = [replace(past, sums=first.sums[0], summed=20), replace(other, sums=first.sums[1], summed=7)]
    second = correct(head, head.project(last), pasts, fit)
    assert torch.allclose(second.delta, whole.delta, rtol=0, atol=1e-12)
    assert torch.allclose(second.sums, whole.sums, rtol=0, atol=1e-12)
    # They are what it started from, not computed beside it.
    wrong = [replace(pasts[0], sums=-first.sums[0]), pasts[1]]
    assert not torch.allclose(correct(head, head.project(last), wrong, fit).delta[0], whole.delta[0], atol=1e-3)


def test_together_is_as_alone() -> None:
    head = head_of(torch.float64)
    last, pasts = texts_of(torch.float64, [4, 90, 33])
    together = correct(head, head.project(last), pasts, fit_of(3, torch.float64))
    for row in range(3):
        alone = correct(head, head.project(last[row : row + 1]), pasts[row : row + 1], fit_of(1, torch.float64))
        assert torch.allclose(together.delta[row], alone.delta[0], rtol=0, atol=1e-12)


class TwoShards:
    """Two halves of a vocabulary in one process, in lockstep: each call waits for the other half's."""

    def __init__(self, barrier: Any, box: dict[int, Tensor], number: int) -> None:
        self._barrier, self._box, self._number = barrier, box, number

    def _both(self, values: Tensor) -> list[Tensor]:
        self._box[self._number] = values
        self._barrier.wait(10)
        found = [self._box[0], self._box[1]]
        self._barrier.wait(10)
        return found

    def sum(self, values: Tensor) -> Tensor:
        first, second = self._both(values)
        return first + second

    def max(self, values: Tensor) -> Tensor:
        first, second = self._both(values)
        return torch.maximum(first, second)

    def gather(self, values: Tensor) -> Tensor:
        return torch.cat(self._both(values), -1)

    def largest(self, rows: int) -> int:
        return 56


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_shards_are_the_whole(soft_cap: float | None, keeps: bool) -> None:
    whole = head_of(torch.float64, soft_cap=soft_cap)
    last, pasts = texts_of(torch.float64, [12, 40])
    expected = correct(whole, whole.project(last), pasts, fit_of(2, torch.float64))
    barrier, box, found = threading.Barrier(2), dict[int, Tensor](), dict[int, Correction]()

    def run(number: int, rows: slice) -> None:
        head = Head(whole.weight[rows], None, soft_cap, 1.0, rows.start, TwoShards(barrier, box, number))
        named = [replace(past, text=i if keeps else None) for i, past in enumerate(pasts)]
        found[number] = correct(head, head.project(last), named, fit_of(2, torch.float64), Kept())

    threads = [threading.Thread(target=run, args=(i, rows)) for i, rows in enumerate((slice(0, 41), slice(41, 97)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for number in (0, 1):
        assert torch.allclose(found[number].delta, expected.delta, rtol=0, atol=1e-12)
        assert torch.allclose(found[number].logits, expected.logits, rtol=0, atol=1e-12)
        assert torch.allclose(found[number].entropy, expected.entropy, rtol=0, atol=1e-12)


def test_half_precision_is_near() -> None:
    """Adam's first steps are nearly the gradient's signs: components near zero may differ by much."""
    head = head_of(torch.float32)
    last, pasts = texts_of(torch.float32, [30])
    exact = correct(head, head.project(last), pasts, fit_of(1, torch.float32))
    half = Head(head.weight.bfloat16())
    near = correct(half, half.project(last), pasts, fit_of(1, torch.float32))
    assert near.delta.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact.delta, near.delta)[0] > 0.98
