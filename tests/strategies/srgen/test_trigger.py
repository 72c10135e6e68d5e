"""The trigger, against its definition text by text."""

import random
from statistics import mean, stdev

import pytest
import torch

from strategies.srgen.request import MAX_WINDOW, SRGenParams
from strategies.srgen.trigger import Trigger, entropies_of

CPU = torch.device("cpu")
DEFAULT = SRGenParams()


def enter(trigger: Trigger, params: SRGenParams, *before: float) -> int:
    place = trigger.take()
    trigger.enter(place, params, torch.tensor(before))
    return place


def threshold(params: SRGenParams, before: list[float]) -> float:
    """As the paper has it."""
    if len(before) < params.window:
        return params.warmup_threshold
    last = before[-params.window :]
    return max(mean(last) + params.sensitivity * max(stdev(last), params.min_std), params.min_threshold)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_entropies(scale: float) -> None:
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0)) * scale
    temperatures = torch.tensor([0.5, 0.7, 1.0, 1.3, 2.0])
    exact = torch.special.entr(torch.softmax(logits.double() / temperatures[:, None].double(), -1)).sum(-1)
    assert (entropies_of(logits, temperatures) - exact).abs().max() < 1e-4


def test_each_text_is_watched_by_its_own_settings() -> None:
    draw = random.Random(0)
    settings = [
        SRGenParams(window=3, sensitivity=1.0, min_std=0.01, min_threshold=0.1, warmup_threshold=1.5),
        SRGenParams(window=10, sensitivity=0.5, min_std=0.05, min_threshold=0.2),
        SRGenParams(window=MAX_WINDOW),
        DEFAULT,
    ]
    trigger = Trigger(2, CPU)  # Grows.
    places = [enter(trigger, params) for params in settings]
    texts: list[list[float]] = [[] for _ in settings]
    fired = 0
    for _ in range(300):
        rows = draw.sample(range(4), draw.randint(1, 4))
        values = [draw.expovariate(1.0) for _ in rows]
        seen = trigger.watch(torch.tensor([places[row] for row in rows]), torch.tensor(values))
        for row, value, fires, found in zip(rows, values, seen.fires.tolist(), seen.thresholds.tolist(), strict=True):
            expected = threshold(settings[row], texts[row])
            assert found == pytest.approx(expected, abs=1e-4)
            assert fires == (value > expected)
            texts[row].append(value)
            fired += fires
    assert fired > 50


def test_the_comparison_is_strict() -> None:
    trigger = Trigger(1, CPU)
    place = torch.tensor([enter(trigger, DEFAULT)])
    assert trigger.watch(place, torch.tensor([3.0])).fires.tolist() == [False]
    assert trigger.watch(place, torch.tensor([3.001])).fires.tolist() == [True]


def test_an_entropy_that_fired_is_added() -> None:
    params = SRGenParams(window=2, sensitivity=0.0, min_std=0.0, min_threshold=0.0, warmup_threshold=0.0)
    trigger = Trigger(1, CPU)
    place = torch.tensor([enter(trigger, params)])
    for value in (1.0, 5.0):
        assert trigger.watch(place, torch.tensor([value])).fires.item()
    assert trigger.watch(place, torch.tensor([0.0])).thresholds.item() == pytest.approx(3.0)


@pytest.mark.parametrize("cut", [0, 1, 5, 24, 25, 26, 60])
def test_a_text_that_goes_on_is_as_one(cut: int) -> None:
    draw = random.Random(1)
    values = [draw.expovariate(1.0) for _ in range(80)]
    whole, later = Trigger(1, CPU), Trigger(1, CPU)
    one = torch.tensor([enter(whole, DEFAULT)])
    two = torch.tensor([enter(later, DEFAULT, *values[:cut])])
    for value in values[:cut]:
        whole.watch(one, torch.tensor([value]))
    for value in values[cut:]:
        first, second = (t.watch(place, torch.tensor([value])) for t, place in ((whole, one), (later, two)))
        assert first.thresholds.item() == pytest.approx(second.thresholds.item(), abs=1e-5)


def test_a_place_is_used_again() -> None:
    trigger = Trigger(2, CPU)
    first, second = trigger.take(), trigger.take()
    trigger.leave(first)
    assert trigger.take() == first
    assert trigger.take() not in (first, second)
