"""Corrections that go on from what earlier ones have kept, against corrections that start anew."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from strategies.srgen import kept as kept_module
from strategies.srgen.head import Head
from strategies.srgen.kept import Kept
from strategies.srgen.objective import Past, correct
from tests.strategies.srgen.test_objective import VOCABULARY, fit_of, head_of, texts_of


class Growing:
    """A text that is corrected as it grows, and what is kept of it."""

    def __init__(self, head: Head, name: str, kept: Kept) -> None:
        seed = sum(map(ord, name))
        self._last, (self._past,) = texts_of(torch.float64, [90], seed)
        self._head, self._name, self._kept = head, name, kept

    def check(self, length: int) -> None:
        """Corrects it at a length, and compares with a correction that knows of nothing kept."""
        past, fit = Past(self._past.hidden[:length], self._past.labels[:length]), fit_of(1, torch.float64)
        projected = self._head.project(self._last)
        kept = correct(self._head, projected, [replace(past, text=self._name)], fit, self._kept)
        expected = correct(self._head, projected, [past], fit)
        assert torch.allclose(kept.delta, expected.delta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_positions_are_projected_once(monkeypatch: pytest.MonkeyPatch, soft_cap: float | None) -> None:
    monkeypatch.setattr(kept_module, "BLOCK_ROWS", 7)
    counting = CountingHead(head_of(torch.float64).weight, soft_cap=soft_cap)
    kept = Kept()
    last, (past,) = texts_of(torch.float64, [50])
    for length, new in ((10, 10), (11, 1), (28, 17), (50, 22)):
        counting.rows.clear()
        text = Past(past.hidden[:length], past.labels[:length], text="a")
        correct(counting, counting.project(last), [text], fit_of(1, torch.float64), kept)
        # Beside the current position, and one vector in each of three steps.
        assert sum(counting.rows) == new + 1 + 3
    # What a step makes anyway is taken from it.
    for position in (50, 51, 60):
        kept.append(counting, "a", position, counting.project(past.hidden[:1])[0])
    counting.rows.clear()
    longer = torch.cat([past.hidden, past.hidden[:1], past.hidden[:1], past.hidden[:1]])
    text = Past(longer, torch.cat([past.labels, past.labels[:3]]), text="a")
    kept_of = correct(counting, counting.project(last), [text], fit_of(1, torch.float64), kept)
    assert sum(counting.rows) == 1 + 1 + 3
    anew = correct(counting, counting.project(last), [replace(text, text=None)], fit_of(1, torch.float64))
    assert torch.allclose(kept_of.delta, anew.delta, rtol=0, atol=1e-12)
    growing = Growing(counting, "b", kept)
    for length in (1, 6, 7, 8, 21, 40):
        growing.check(length)


@dataclass(frozen=True)
class CountingHead(Head):
    rows: list[int] = field(default_factory=list)

    @override
    def times(self, vectors: Tensor) -> Tensor:
        self.rows.append(len(vectors))
        return vectors @ self.weight.T


def test_where_there_is_no_room_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "BLOCK_ROWS", 4)
    head = head_of(torch.float64)
    kept = Kept(VOCABULARY * 8 * 4 * 6)  # six blocks
    texts = [Growing(head, name, kept) for name in "abc"]
    for length in (3, 9, 12, 13, 17, 24):
        for text in texts:
            text.check(length)
    texts[0].check(90)  # More than there is room for: in parts, in every step.
    texts[1].check(24)
    kept.append(head, "b", 24, torch.zeros(VOCABULARY))  # Forgotten, as there is no room.
    texts[1].check(24)
    kept.drop("a")
    kept.drop("a")
    texts[1].check(20)


def test_texts_that_fit_together_are_solved_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "BLOCK_ROWS", 4)
    head = head_of(torch.float64)
    kept = Kept(VOCABULARY * 8 * 4 * 6)
    assert list(kept.batches(head, [4, 8, 9, 1, 99, 2, 2])) == [slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 7)]
    assert list(kept.batches(head, [99])) == [slice(0, 1)]
    last, pasts = texts_of(torch.float64, [4, 8, 9, 24])
    named = [replace(past, text=i) for i, past in enumerate(pasts)]
    for _ in range(2):
        for part in (slice(0, 3), slice(3, 4)):
            count = part.stop - part.start
            found = correct(head, head.project(last[part]), named[part], fit_of(count, torch.float64), kept)
            expected = correct(head, head.project(last[part]), pasts[part], fit_of(count, torch.float64))
            assert torch.allclose(found.delta, expected.delta, rtol=0, atol=1e-12)


def test_rounded_distributions_do_no_harm() -> None:
    """Where the model is sure, what counts is how far its probability is from 1: rounded to 8 bits, mostly nothing."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(2000, 64, generator=generator)
    labels = torch.randint(2000, (120,), generator=generator)
    hidden = weight[labels] * 0.2 + torch.randn(120, 64, generator=generator) * 0.3
    sure = torch.softmax(hidden @ weight.T, -1).gather(1, labels[:, None])
    assert 0.05 < (sure > 0.99).float().mean() < 0.95
    last = torch.randn(1, 64, generator=generator)
    exact = correct(Head(weight), last @ weight.T, [Past(hidden, labels)], fit_of(1, torch.float32))
    half = Head(weight.bfloat16())
    errors = []
    for text in (None, "kept"):
        past = Past(hidden.bfloat16(), labels, text=text)
        found = correct(half, half.project(last.bfloat16()), [past], fit_of(1, torch.float32), Kept())
        errors.append(float((found.delta - exact.delta).norm() / exact.delta.norm()))
    unkept, kept = errors
    assert kept < 1.1 * unkept
