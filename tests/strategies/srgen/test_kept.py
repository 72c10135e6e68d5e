"""Corrections that go on from what earlier ones have kept, against corrections that start anew."""

import random
import weakref
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from strategies.srgen import kept as kept_module
from strategies.srgen import objective
from strategies.srgen.head import Head
from strategies.srgen.kept import Kept
from strategies.srgen.objective import Past, correct
from tests.strategies.srgen.test_objective import VOCABULARY, fit_of, head_of, texts_of


@pytest.fixture(params=[False, True], ids=["projections", "distributions"])
def distributions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """What rows are, in double precision, where the two must agree."""
    for module in (kept_module, objective):
        monkeypatch.setattr(module, "has_distributions", lambda head: request.param and head.soft_cap is None)
    return bool(request.param)


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
def test_positions_are_projected_once(
    monkeypatch: pytest.MonkeyPatch, soft_cap: float | None, distributions: bool
) -> None:
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


def test_where_there_is_no_room_the_oldest_go(monkeypatch: pytest.MonkeyPatch, distributions: bool) -> None:
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


def test_texts_solved_together_leave_each_other_alone(monkeypatch: pytest.MonkeyPatch, distributions: bool) -> None:
    """Whatever was appended to them before, and whether or not there is room for all of them."""
    monkeypatch.setattr(kept_module, "BLOCK_ROWS", 4)
    head, draw = head_of(torch.float64), random.Random(0)
    kept = Kept(VOCABULARY * 8 * 4 * 10)  # ten blocks
    last, pasts = texts_of(torch.float64, [70] * 6)
    lengths, ages, crowded = [1] * 6, [0] * 6, 0
    for _ in range(60):
        part = sorted(draw.sample(range(6), draw.choice((1, 2, 3))))
        for i in range(6):
            # As in the engine: the current position's row is appended before the correction.
            kept.append(head, (i, ages[i]), lengths[i], head.project(pasts[i].hidden[lengths[i] : lengths[i] + 1])[0])
        cut = [Past(pasts[i].hidden[: lengths[i]], pasts[i].labels[: lengths[i]], text=(i, ages[i])) for i in part]
        found = correct(head, head.project(last[part]), cut, fit_of(len(part), torch.float64), kept)
        anew = [replace(past, text=None) for past in cut]
        expected = correct(head, head.project(last[part]), anew, fit_of(len(part), torch.float64))
        assert torch.allclose(found.delta, expected.delta, rtol=0, atol=1e-12)
        crowded += sum(-(-lengths[i] // 4) for i in part) > 10
        for i in range(6):
            lengths[i] += draw.choice((1, 1, 4))
            if lengths[i] > 60:
                kept.drop((i, ages[i]))
                lengths[i], ages[i] = draw.randrange(1, 20), ages[i] + 1
    assert crowded > 5


def test_all_is_given_back_when_no_text_is_left() -> None:
    head, kept = head_of(torch.float64), Kept()
    last, pasts = texts_of(torch.float64, [30, 40])
    correct(
        head,
        head.project(last),
        [replace(past, text=i) for i, past in enumerate(pasts)],
        fit_of(2, torch.float64),
        kept,
    )
    block = weakref.ref(kept.rows(head, {0: pasts[0].hidden})[0][0]._base)
    kept.drop(0)
    assert block() is not None
    kept.drop(1)
    assert block() is None


def test_what_is_shifted_far_is_computed_from_projections() -> None:
    """A token that a rounded distribution has as 0 may be all that is left of it."""
    weight = torch.tensor([[120.0, 0], [0, 120], [0, 0]]).bfloat16()
    head = Head(weight)
    hidden = torch.tensor([[1.0, 0]]).bfloat16()  # The second token has e^-120, which is 0.
    fit = fit_of(1, torch.float32, entropy_weight=[0.0], learning_rate=[0.5], steps=[4])
    past = Past(hidden, torch.tensor([1]), text="a")
    found = correct(head, head.project(hidden), [past], fit, Kept())
    expected = correct(head, head.project(hidden), [replace(past, text=None)], fit)
    assert found.delta.isfinite().all()
    assert torch.allclose(found.delta, expected.delta)


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
