"""The forward pass that trl's losses read: what it leaves out is what nobody reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
)
from trl.trainer.utils import add_fused_lm_head

from trainer.forward import IGNORED, install

Pair = tuple[list[int], list[int], list[int]]
"""A prompt, and two ways in which it goes on."""

PAIRS: list[list[Pair]] = [
    [([1, 2, 3], [4, 5, 9], [4, 5, 7, 9])],
    [([1, 2, 3, 4, 5, 6], [7, 9], [9]), ([1, 2], [3, 9], [3, 7, 9])],
    [([1, 2, 3], [7, 8, 8, 9], [9]), ([5], [6, 6, 6, 6, 9], [4, 4, 9])],
    [([1, 2, 3], [9], [9])],
    [([1, 2], [5, 5], [5, 5, 5, 5])],  # One goes on with the other.
    [([1, 2], [5, 5, 5, 5], [5, 5])],
]


@pytest.fixture
def model(tiny_model: Path) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    return loaded.eval()


def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def batch_of(rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """As trl's collators make it, of prompts and what is learnt of them."""
    return {
        "input_ids": padded([prompt + answer for prompt, answer in rows], 0),
        "attention_mask": padded([[1] * len(prompt + answer) for prompt, answer in rows], 0),
        "labels": padded([[IGNORED] * len(prompt) + answer for prompt, answer in rows], IGNORED),
    }


def expected(model: Any, rows: list[tuple[list[int], list[int]]]) -> list[list[float]]:
    """Log-probabilities of each row's answer, row by row and without padding."""
    found = []
    for prompt, answer in rows:
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        found.append([float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(answer)])
    return found


def told(outputs: Any, labels: torch.Tensor) -> list[list[float]]:
    found = outputs.log_probs
    assert not found[labels[:, 1:] == IGNORED].any()
    return [row[mask].tolist() for row, mask in zip(found, labels[:, 1:] != IGNORED, strict=True)]


@pytest.mark.parametrize("pairs", PAIRS, ids=str)
def test_a_pair_is_one_sequence(model: Any, pairs: list[Pair]) -> None:
    rows = [(prompt, chosen) for prompt, chosen, _ in pairs] + [(prompt, rejected) for prompt, _, rejected in pairs]
    wanted = expected(model, rows)
    seen = []
    install(model, pairs=True)
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    batch = batch_of(rows)
    outputs = model(**batch, use_cache=False, fused_lm_head=True)
    for found, one in zip(told(outputs, batch["labels"]), wanted, strict=True):
        assert found == pytest.approx(one, abs=1e-5)
    ((sequences, width),) = seen
    assert sequences == len(pairs)
    assert width <= max(len(prompt + chosen + rejected) for prompt, chosen, rejected in pairs) - 2


SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
OTHERS: dict[str, tuple[Any, bool]] = {
    "softcap": (Gemma2Config(**SIZES, head_dim=16, final_logit_softcapping=2.0, sliding_window=4), False),
    "scaling": (GraniteConfig(**SIZES, logits_scaling=8.0), True),
    "scale": (CohereConfig(**SIZES, logit_scale=0.3), True),
    "window": (MistralConfig(**SIZES, sliding_window=3), False),
    "no window": (MistralConfig(**SIZES, sliding_window=None), True),
    "states": (MambaConfig(**SIZES), False),
    "experts": (MixtralConfig(**SIZES, num_local_experts=2, sliding_window=None), False),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_models(kind: str) -> None:
    """What they do behind their heads is done; those that a mask alone does not keep apart take two sequences."""
    config, shared = OTHERS[kind]
    torch.manual_seed(0)
    models: Any = AutoModelForCausalLM
    model = models.from_config(config).eval()
    pairs = PAIRS[2]
    rows = [(prompt, chosen) for prompt, chosen, _ in pairs] + [(prompt, rejected) for prompt, _, rejected in pairs]
    wanted = expected(model, rows)
    add_fused_lm_head(model)
    seen = []
    install(model, pairs=True)
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    batch = batch_of(rows)
    outputs = model(**batch, use_cache=False, fused_lm_head=True)
    assert seen == [2 if shared else 4]
    for found, one in zip(told(outputs, batch["labels"]), wanted, strict=True):
        assert found == pytest.approx(one, abs=1e-4)


def test_gradients_are_those_of_two_sequences(model: Any) -> None:
    pairs = PAIRS[2]
    rows = [(prompt, chosen) for prompt, chosen, _ in pairs] + [(prompt, rejected) for prompt, _, rejected in pairs]
    batch = batch_of(rows)
    logits = model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
    mask = batch["labels"][:, 1:] != IGNORED
    picked = logits.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    (picked * mask).sum().backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    install(model, pairs=True)
    model(**batch, use_cache=False, fused_lm_head=True).log_probs.sum().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, wanted[name], atol=1e-4, rtol=1e-4)


def test_the_head_sees_positions_with_labels_alone(model: Any) -> None:
    rows = [([1, 2, 3, 4, 5, 6, 7], [8, 9]), ([1], [2, 3, 9])]
    wanted = expected(model, rows)
    seen = []
    model.lm_head.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:-1].numel()))
    install(model, pairs=False)
    batch = batch_of(rows)
    outputs = model(**batch, use_cache=False, fused_lm_head=True)
    assert seen == [5]
    for found, one in zip(told(outputs, batch["labels"]), wanted, strict=True):
        assert found == pytest.approx(one, abs=1e-5)
    assert outputs.loss.item() == pytest.approx(-sum(map(sum, wanted)) / 5, abs=1e-5)
    # Asked as any model is, it answers as before.
    assert model(batch["input_ids"]).logits.shape[:2] == batch["input_ids"].shape
