"""A model small enough to start a real engine on in a test, and the engine."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from server.engine.arguments import engine_arguments, engine_environment
from server.engine.hardware import detect
from server.engine.reports import report_pipe
from server.models import ResolvedModel
from server.settings import Settings

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast
    from vllm.v1.engine.async_llm import AsyncLLM

IM_START, IM_END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"

CONTEXT_TOKENS = 2048

SHARED: Mapping[str, Any] = {
    "dtype": "float32",
    "step_tokens": 64,
    "max_model_len": 1024,
    "kv_cache_gib": 0.25,
    "training": True,
    "adapter_slots": 3,
}
"""Settings of the engine that tests share: it computes prompts in parts of 64 tokens."""


@asynccontextmanager
async def running_engine(folder: Path, settings: Settings, extra: Sequence[str] = ()) -> "AsyncIterator[AsyncLLM]":
    """A real engine on the model in `folder`, started as the server starts it; takes 15 to 30 s."""
    model, hardware = ResolvedModel(str(folder), "tiny", local=True), detect()
    # Its processes have the environment once they are there; other servers of the same tests are not to have it.
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine_environment(settings, model, hardware).items():
            patch.setenv(name, value)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        report_pipe()
        arguments = engine_arguments(settings, model, hardware, extra)
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(arguments))
    try:
        yield engine
    finally:
        engine.shutdown(timeout=0)


def save_tiny_model(directory: Path) -> Path:
    """Write a random Llama of two layers to `directory`, the same every time, and return `directory`.

    Its tokenizer makes one token of each byte and one of each special token, so a prompt's length is easily told. It
    answers noise: bytes of no meaning, with a spread of probabilities like a trained model's.
    """
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = _byte_tokenizer()
    # Wide enough that the best token leads by more than rounding, whatever the batch.
    config = _llama(tokenizer, hidden_size=64, intermediate_size=128, num_hidden_layers=2, initializer_range=0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_bigram_model(directory: Path, following: Mapping[str, Mapping[str, float]], special: str) -> Path:
    """Write a Llama that knows what it says: each token's followers have the probabilities of a table.

    Args:
        directory: where to write it; returned.
        following: probabilities by follower, by token. Tokens are bytes or special. What is left, and something must
            be, is spread over the other followers.
        special: a further special token of its tokenizer.
    """
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = _byte_tokenizer(special)
    size = len(tokenizer)
    # vLLM has no heads of any size; those of 192 it has.
    config = _llama(tokenizer, hidden_size=384, intermediate_size=64, num_hidden_layers=1)
    model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    logits = torch.zeros(size, size)
    for token, probabilities in following.items():
        rest = (1 - sum(probabilities.values())) / (size - len(probabilities))
        row = torch.full((size,), rest)
        for follower, probability in probabilities.items():
            row[_one(tokenizer, follower)] = probability
        logits[_one(tokenizer, token)] = row.log()
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        # What the head sees is the token itself, in the norm's scale.
        model.model.embed_tokens.weight.copy_(torch.eye(size, config.hidden_size))
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, :size] = logits.T / config.hidden_size**0.5
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _one(tokenizer: "PreTrainedTokenizerFast", token: str) -> int:
    found: list[int] = tokenizer.encode(token)
    assert len(found) == 1, f"{token!r} is no token"
    return found[0]


def _llama(tokenizer: "PreTrainedTokenizerFast", **sizes: Any) -> "LlamaConfig":
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        **sizes,
    )


def _byte_tokenizer(*special: str) -> "PreTrainedTokenizerFast":
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (IM_START, IM_END, PAD, *special)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=IM_END,
        pad_token=PAD,
        additional_special_tokens=[IM_START, *special],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
    )


CHAT_TEMPLATE = """\
{%- if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif -%}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or "" }}{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""
