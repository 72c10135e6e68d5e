"""Models whose heads are not like Llama's, in real engines."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from server.settings import Settings
from strategies.engine import Generation
from tests.engines import running_engine, save_tiny_model
from tests.strategies.srgen.test_engine import FORCED, generate, prompts, sampling_of

SIZES: dict[str, Any] = {"vocab_size": 260, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def save(folder: Path, kind: str) -> Path:
    """A random model of a kind beside the tiny model's tokenizer."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM, Qwen2Config, Qwen2ForCausalLM

    save_tiny_model(folder)
    SIZES["vocab_size"] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    torch.manual_seed(0)
    if kind == "narrow":
        # Its backbone's output is projected to half its width before the head.
        narrow = OPTConfig(**SIZES, word_embed_proj_dim=64, ffn_dim=128, do_layer_norm_before=False, init_std=0.2)
        OPTForCausalLM(narrow).save_pretrained(folder)  # type: ignore[no-untyped-call]
    else:
        # Its last norm belongs to the head.
        plain = Qwen2Config(**SIZES, num_key_value_heads=2, intermediate_size=128, initializer_range=0.2)
        Qwen2ForCausalLM(plain).save_pretrained(folder)  # type: ignore[no-untyped-call]
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["MiMoForCausalLM"]}))
    return folder


PROMPT, POSITIONS = 40, 50


async def answers(folder: Path) -> tuple[Generation, list[Generation]]:
    """One without SRGen, two with, whose corrections end at POSITIONS."""
    settings = Settings(
        dtype="float32", step_tokens=64, max_model_len=256, kv_cache_gib=0.05, srgen_positions=POSITIONS
    )
    (prompt,) = prompts((PROMPT,), seed=1)
    sampling = sampling_of(max_tokens=20)
    async with running_engine(folder, settings) as engine:
        plain = await generate(engine, prompt, sampling, None)
        return plain, [await generate(engine, prompt, sampling, FORCED) for _ in range(2)]


async def test_a_head_narrower_than_the_backbone(tmp_path: Path) -> None:
    plain, corrected = await answers(save(tmp_path, "narrow"))
    assert len(plain.token_ids) == 20
    for one in corrected:
        *activations, last = one.reports
        assert {report["kind"] for report in activations} == {"activation"}
        assert max(report["position"] for report in activations) <= POSITIONS - PROMPT
        assert (last["kind"], f"more than {POSITIONS} positions" in last["reason"]) == ("unsupported", True)
        assert one.token_ids != plain.token_ids


async def test_a_head_that_is_more_than_a_product_is_refused_once(tmp_path: Path) -> None:
    plain, untouched = await answers(save(tmp_path, "normed"))
    for one in untouched:
        (report,) = one.reports
        assert report["kind"] == "unsupported"
        assert "does more than to apply its head" in report["reason"]
        assert one.token_ids == plain.token_ids


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8"])
def test_a_quantised_head_is_refused(dtype: str) -> None:
    from types import SimpleNamespace

    import torch

    from strategies.srgen.capture import Unsupported, _head

    layer = SimpleNamespace(weight=torch.zeros(4, 4).to(getattr(torch, dtype)), tp_size=1)
    with pytest.raises(Unsupported, match="quantised"):
        _head(SimpleNamespace(org_vocab_size=4, soft_cap=None, scale=1.0), layer, None)
