"""What gateways are asked where answers are of no interest, and what reaches the engine of it."""

import random
from collections.abc import Mapping
from typing import Any

from benchmarks.load import prompt

PARAMETERS: Mapping[str, Any] = {
    "temperature": 0.31,
    "top_p": 0.83,
    "top_k": 23,
    "min_p": 0.07,
    "max_tokens": 7,
    "seed": 1234,
    "stop": ["\n\n\n"],
    "presence_penalty": 0.13,
    "frequency_penalty": 0.17,
    "repetition_penalty": 1.19,
    "logit_bias": {"1000": -1.5},
}
"""Each is sent in a request of its own, with a value that is nobody's default. Three of them are vLLM's own."""


def endless(name: str, words: int) -> str:
    """A question that no model answers in few tokens, so that all answers are cut at the same length."""
    return f"Write a story of 1000 words about these: {prompt(random.Random(name), words)}"
