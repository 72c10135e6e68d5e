"""GGUF to a Hugging Face checkpoint, as a program: `python -m server.models.convert GGUF FOLDER TEMPLATE`."""

import sys
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(gguf: Path, folder: Path, template: Path) -> None:
    """Write SmolLM2's weights (bfloat16), tokenizer, chat template and generation config into `folder`."""
    print("Reading the weights of the default model", flush=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )

    print("Reading its tokenizer", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # SmolLM2 splits off every digit before anything else. GGUF says so by a name ("smollm") that transformers passes
    # over: without this, blanks and line ends before a number become tokens that the model never saw there.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    # Kept with the weights, so that checkpoints trained from them know tools too.
    tokenizer.chat_template = template.read_text()

    print("Writing the checkpoint", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:]))
