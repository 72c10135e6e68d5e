"""What the embedded engine says it can do."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def client_of(speculative: object = None, ends: object = None, **config: object) -> Any:
    """As much of an AsyncLLM as tells its capabilities."""
    return SimpleNamespace(
        model_config=SimpleNamespace(
            max_model_len=100, max_logprobs=20, get_vocab_size=lambda: 50, hf_config=SimpleNamespace(**config)
        ),
        vllm_config=SimpleNamespace(speculative_config=speculative, lora_config=None),
        renderer=SimpleNamespace(get_eos_token_id=lambda: 2),
        input_processor=SimpleNamespace(generation_config_fields={"eos_token_id": ends}),
    )


@pytest.mark.parametrize(
    ("listed", "expected"), [(None, (2,)), (2, (2,)), (7, (2, 7)), ([7, 2, 9], (2, 7, 9))], ids=str
)
def test_tokens_that_end_an_answer(listed: object, expected: tuple[int, ...]) -> None:
    from server.engine.embedded import capabilities

    assert capabilities(client_of(ends=listed)).end_tokens == expected


def test_the_token_that_a_checkpoint_was_trained_to_say() -> None:
    from server.engine.embedded import capabilities

    assert capabilities(client_of()).refine_token is None
    assert capabilities(client_of(refine_token="<again>")).refine_token == "<again>"


def test_under_speculative_decoding_there_are_no_hidden_states() -> None:
    from server.engine.embedded import capabilities

    assert "hidden_states" in capabilities(client_of()).names
    assert "hidden_states" not in capabilities(client_of(speculative=object())).names


@pytest.mark.parametrize(
    ("config", "offered"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, True),
        ({"target_modules": ["q_proj", "lm_head"]}, False),
        ({"target_modules": ["embed_tokens"]}, False),
        ({"target_modules": "all-linear"}, True),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
        ({"target_modules": None}, True),
    ],
    ids=str,
)
def test_adapters_of_the_head(tmp_path: Path, config: dict[str, Any], offered: bool) -> None:
    from server.engine.embedded import capabilities

    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    adapter = SimpleNamespace(lora_path=str(tmp_path))
    assert ("hidden_states" in capabilities(client_of(), adapter).names) == offered
