"""SRGen beside LoRA: an adapted request is corrected as the adapted model would be, its neighbour as the plain one."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import hf_srgen
from strategies.engine import Generation, Prompt
from strategies.session import Session
from strategies.srgen import SRGen, SRGenParams
from tests.strategies.srgen.test_engine import FORCED, TOKENS, assert_same, engine_of, prompts, sampling_of

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

pytestmark = pytest.mark.asyncio(loop_scope="session")


def adapted(folder: Path) -> Any:
    """The tiny model, to be given an adapter."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def save_adapter(model: Path, folder: Path, targets: list[str], seed: int) -> Path:
    """A random adapter of the tiny model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=targets, init_lora_weights=False)
    get_peft_model(adapted(model), config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    targets = ["q_proj", "v_proj", "down_proj"]
    return save_adapter(tiny_model, tmp_path_factory.mktemp("adapter"), targets, seed=1)


@pytest.fixture
def engine(shared_engine: "AsyncLLM") -> "AsyncLLM":
    return shared_engine


async def generate(client: "AsyncLLM", prompt: list[int], adapter: Any) -> Generation:
    decode = SRGen(SRGenParams(**FORCED)).apply
    async with Session(engine_of(client), decode=decode, adapter=adapter) as session:
        return (await session.call(Prompt(tuple(prompt)), sampling_of()).finish()).result


async def test_each_row_has_its_own_weights(engine: "AsyncLLM", tiny_model: Path, adapter: Path) -> None:
    from peft import PeftModel
    from vllm.lora.request import LoRARequest

    texts = prompts((30, 70, 45, 20), seed=31)
    request = LoRARequest("adapter", 1, str(adapter))
    found = await asyncio.gather(
        *(generate(engine, text, request if number % 2 else None) for number, text in enumerate(texts))
    )
    plain = adapted(tiny_model)
    merged = PeftModel.from_pretrained(adapted(tiny_model), str(adapter)).merge_and_unload()
    for number, (text, one) in enumerate(zip(texts, found, strict=True)):
        model = merged if number % 2 else plain
        expected = hf_srgen.generate(model, text, hf_srgen.Settings(**FORCED), TOKENS)
        assert list(one.token_ids) == expected.tokens
        assert_same(one.reports, expected.activations)
        assert one.reports


async def test_an_adapted_head_is_refused(engine: "AsyncLLM", tiny_model: Path, tmp_path: Path) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError
    from vllm.lora.request import LoRARequest

    from server.engine.embedded import capabilities

    folder = save_adapter(tiny_model, tmp_path, ["q_proj", "lm_head"], seed=2)
    assert "hidden_states" not in capabilities(engine, LoRARequest("head", 2, str(folder))).names
    assert "hidden_states" in capabilities(engine).names
    adapter = LoRARequest("head", 2, str(folder))
    params = SamplingParams(max_tokens=1, extra_args={"srgen": "{}"})
    prompt: Any = {"prompt_token_ids": [1, 2]}
    with pytest.raises(VLLMValidationError, match="srgen cannot be used here: the adapter changes"):
        _ = [output async for output in engine.generate(prompt, params, "head", lora_request=adapter)]
