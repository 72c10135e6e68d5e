"""What an adapter learns, and that nothing else changes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.lora import Example, LoraSettings, NotFitted, fit, loss_of

TEXT = tuple(b"what is 2 + 2? 4!")


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


def adapted(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder))


def test_the_loss_is_that_of_the_learnt_tokens(model: Any) -> None:
    """Of each the log-probability behind what stands before it."""
    with torch.no_grad():
        logprobs = model(torch.tensor([TEXT])).logits[0].log_softmax(-1)
        expected = -sum(float(logprobs[i - 1, TEXT[i]]) for i in range(len(TEXT) - 3, len(TEXT))) / 3
        assert float(loss_of(model, Example(TEXT, 3))) == pytest.approx(expected, rel=1e-5)


def test_it_learns_and_the_model_stays_as_it_is(model: Any, tmp_path: Path) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    losses: list[tuple[int, float]] = []
    settings = LoraSettings(epochs=8, learning_rate=1e-2)
    fit(model, [Example(TEXT, 2)], settings, tmp_path, lambda *step: losses.append(step))
    assert [epoch for epoch, _ in losses] == list(range(1, 9))
    assert losses[-1][1] < losses[0][1] / 2
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    assert {name.rsplit(".", 1)[-1] for name in config["target_modules"]} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    with torch.no_grad():
        assert float(loss_of(adapted(model, tmp_path), Example(TEXT, 2))) < losses[-1][1]


def test_the_same_every_time(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        examples = [Example(TEXT, 2), Example(TEXT[:9], 1), Example(TEXT[:5], 3)]
        fit(model, examples, LoraSettings(seed=seed), tmp_path / name)
    a, b, c = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_one_step_is_that_of_adamw(tiny_model: Path, tmp_path: Path) -> None:
    """Against the definition: from zero, and without a decay, every weight of B moves by the rate against its sign."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    fit(model, [Example(TEXT, 2)], LoraSettings(epochs=1, learning_rate=1e-3), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    moved = torch.cat([weight.flatten() for name, weight in weights.items() if "lora_B" in name])
    moved = moved[moved != 0].abs()
    assert float(moved.median()) == pytest.approx(1e-3, rel=1e-2)
    assert float(moved.max()) <= 1e-3 * 1.001


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        (LoraSettings(), 5, [1, 1, 0.853553, 0.5, 0.146447]),
        (LoraSettings(schedule="constant"), 5, [1] * 5),
        (LoraSettings(warmup=0.5, schedule="constant"), 8, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        (LoraSettings(warmup=0), 2, [1, 0.5]),
        (LoraSettings(warmup=1), 2, [0.5, 1]),
    ],
)
def test_learning_rates(settings: LoraSettings, steps: int, expected: list[float]) -> None:
    assert [settings.rate(step, steps) for step in range(steps)] == pytest.approx(expected, abs=1e-6)


def test_what_is_not_finite_is_no_adapter(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with pytest.raises(NotFitted):
        fit(model, [Example(TEXT, 2)], LoraSettings(learning_rate=math.inf), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    assert not any("lora" in name for name in model.state_dict())


def test_whoever_watches_may_end_it(model: Any, tmp_path: Path) -> None:
    def stop(epoch: int, loss: float) -> None:
        raise KeyError(epoch)

    with pytest.raises(KeyError):
        fit(model, [Example(TEXT, 2)], LoraSettings(), tmp_path / "adapter", stop)
    assert not any("lora" in name for name in model.state_dict())
