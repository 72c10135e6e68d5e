"""Models as they are trained: layers that stay, and tokens that come."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, FalconConfig, Gemma2Config, GPT2Config, OPTConfig

from trainer.loading import add_token, freeze, loaded
from trainer.settings import FitSettings

NEW = 259
"""What a new token of the tiny tokenizer gets."""


@pytest.mark.parametrize("kind", [GPT2Config, OPTConfig, FalconConfig])
def test_layers_of_any_family_are_frozen(kind: Any) -> None:
    config = kind(vocab_size=32, hidden_size=16, num_hidden_layers=4, num_attention_heads=2)
    models: Any = AutoModelForCausalLM
    model = models.from_config(config)
    freeze(model, FitSettings(frozen=0.5), None)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert {re.search(r"\.(\d)\.", name)[1] for name in frozen} == {"0", "1"}  # type: ignore[index]
    assert all(re.search(r"\.[01]\.", name) for name in frozen)


def test_what_caps_its_attention_is_trained_as_it_is(tmp_path: Path, tiny_model: Path) -> None:
    """Gemma 2, which PyTorch's own attention would compute without the cap."""
    config = Gemma2Config(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, attn_logit_softcapping=50.0, query_pre_attn_scalar=8,
    )  # fmt: skip
    models: Any = AutoModelForCausalLM
    models.from_config(config).save_pretrained(tmp_path)
    found: Any = loaded(str(tmp_path), AutoTokenizer.from_pretrained(tiny_model), FitSettings(), None)
    assert found.config._attn_implementation == "eager"
    other: Any = loaded(str(tiny_model), AutoTokenizer.from_pretrained(tiny_model), FitSettings(), None)
    assert other.config._attn_implementation == "sdpa"


def test_a_new_token_of_a_padded_vocabulary(tiny_model: Path) -> None:
    """It begins as the mean of the tokenizer's others, not as padding, or with it."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    model.resize_token_embeddings(300, mean_resizing=False)
    weight = model.lm_head.weight
    with torch.no_grad():
        weight[NEW:] = 100.0
    assert add_token(model, tokenizer, "<|refine|>") == NEW
    assert len(weight) == 300
    torch.testing.assert_close(weight[NEW], weight[:NEW].mean(0))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("frozen", [0.0, 0.5])
def test_a_tied_row_learns_in_the_head_alone_where_layers_are_frozen(
    tiny_model: Path, frozen: float, tied: bool
) -> None:
    """No gradient goes through frozen layers, which would cost as much as theirs, if there is another way to learn."""
    models: Any = AutoModelForCausalLM
    model = models.from_pretrained(tiny_model)
    model.config.tie_word_embeddings = tied
    model.tie_weights()
    freeze(model, FitSettings(frozen=frozen, freeze_embeddings=True), 7)
    arrived = []
    model.model.layers[0].register_forward_hook(lambda layer, given, found: arrived.append(given[0].requires_grad))
    # A token that is not the one: where its row has a gradient, it is the head's.
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.log_softmax(-1)[0, -1, 7].backward()
    assert model.lm_head.weight.grad[7].any()
    assert arrived == [not (tied and frozen)]
