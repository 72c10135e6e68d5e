"""What the measurement of adapters asks, and what it makes of the answers."""

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.journal import Journal
from benchmarks.lora import ADAPTED, ADAPTERS, PLAIN, VLLM, Settings, loads, ratios, report, save_adapters
from benchmarks.servers import MODEL

LOADS = ("plain", "one plain", "half, one adapter", "half, eight adapters")
SPEEDS = {ADAPTED: (180.0, 38.0, 135.0, 90.0), VLLM: (150.0, 30.0, 60.0, 50.0)}


def round_of(factor: float) -> dict[str, float]:
    """A round of a machine that is so many times as fast."""
    found = {f"{PLAIN}, plain": 200.0 * factor, f"{PLAIN}, one plain": 40.0 * factor}
    for name, speeds in SPEEDS.items():
        found |= {f"{name}, {load}": speed * factor for load, speed in zip(LOADS, speeds, strict=True)}
    return found


def test_half_of_the_requests_have_an_adapter() -> None:
    asked = loads(16)
    assert (asked["one plain"], asked["plain"]) == ([MODEL], [MODEL] * 16)
    assert asked["half, one adapter"].count(MODEL) == asked["half, one adapter"].count(ADAPTERS[0]) == 8
    assert set(asked["half, eight adapters"]) == {MODEL, *ADAPTERS}
    assert asked["half, eight adapters"][::2] == [MODEL] * 8


def test_ratios_are_of_the_same_round() -> None:
    """So a machine that slows down changes none."""
    found = ratios({"000": round_of(1.0), "001": round_of(0.3), "002": round_of(0.6)})
    assert {name: pytest.approx(ratio.value) for name, ratio in found.items()} == {
        "ready for adapters, one plain request": 0.95,
        "ready for adapters, all plain": 0.9,
        "half by one adapter / all plain": 0.75,
        "half by eight adapters / all plain": 0.5,
        "vLLM: half by one adapter / all plain": 0.4,
        "vLLM: half by eight adapters / all plain": pytest.approx(1 / 3),
        "half by eight adapters: redraft / vLLM": 1.8,
    }
    assert all(ratio.low == pytest.approx(ratio.high) for ratio in found.values())


def test_the_report_says_what_misses_its_aim(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "lora.json", asdict(Settings()))
    journal.entries = {"000": round_of(1.0), "001": round_of(0.5)}
    journal.facts |= {"date": "", "command": "", "machine": {}, "servers": {PLAIN: "`redraft serve`"}}
    text = report(journal, tmp_path).read_text()
    assert "2 of 4 aims are missed." in text
    assert "| half by one adapter / all plain | 0.75 [0.75, 0.75] | ≥ 0.70 | met |" in text
    assert "| half by eight adapters / all plain | 0.50 [0.50, 0.50] | ≥ 0.70 | **missed** |" in text
    assert "| vllm, one plain | 22.5 (15..30) |" in text
    assert (tmp_path / "lora.png").stat().st_size > 1000


def test_adapters_are_random_ones_of_all_layers(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = save_adapters(str(tiny_model), 4, tmp_path)
    assert tuple(made) == ADAPTERS
    one, other = (load_file(made[name] / "adapter_model.safetensors") for name in ADAPTERS[:2])
    assert {name.rsplit(".", 3)[-3] for name in one} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    assert all(bool(weight.any()) and not weight.equal(other[name]) for name, weight in one.items())
