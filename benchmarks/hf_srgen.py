"""SRGen (arXiv 2510.02919) in plain Hugging Face, batch 1, by autograd: what the one inside vLLM is measured against.

Also the oracle of its tests, so written for clearness: one text, a KV cache, every position's logits at each trigger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """The method's parameters, by the names that requests use."""

    window: int = 25
    sensitivity: float = 4.0
    warmup_threshold: float = 3.0
    min_std: float = 0.5
    min_threshold: float = 1.8
    entropy_weight: float = 0.05
    steps: int = 3
    learning_rate: float = 0.01
    max_activations: int = 19
    scope: str = "all"


@dataclass(frozen=True)
class Activation:
    """One corrected token."""

    position: int
    """Among the generated tokens."""
    entropy: float
    threshold: float
    entropy_after: float
    delta: Tensor
    logits: Tensor
    """[V], with delta."""


@dataclass(frozen=True)
class Answer:
    """What was generated."""

    tokens: list[int]
    activations: list[Activation]
    entropies: list[float]
    """Of each watched token, from the second on."""
    thresholds: list[float]
    """The same tokens' thresholds."""


def generate(
    model: Any,
    prompt: Sequence[int],
    settings: Settings,
    max_tokens: int,
    *,
    temperature: float = 0.0,
    forced: Sequence[int] | None = None,
    allowed: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> Answer:
    """Generation with corrections, greedy unless there is a generator.

    Args:
        model: a causal language model of transformers.
        prompt: its token ids.
        settings: the method's.
        max_tokens: to generate.
        temperature: for entropies; 0 is greedy, whose entropies are those of temperature 1.
        forced: tokens to take instead of the likeliest.
        allowed: the only tokens that may be taken.
        generator: draws tokens at the temperature.
    """
    tau = temperature or 1.0
    text, activations = list(prompt), list[Activation]()
    entropies, thresholds = list[float](), list[float]()
    states: list[Tensor] = []
    cache = None
    with torch.no_grad():
        output = model.model(torch.tensor([text]), use_cache=True)
    for number in range(max_tokens):
        cache, hidden = output.past_key_values, output.last_hidden_state[0]
        states.append(hidden)
        with torch.no_grad():
            logits = model.lm_head(hidden[-1])
        if number and len(activations) < settings.max_activations:
            entropy = float(_entropy(logits / tau))
            threshold = _threshold(entropies, settings)
            if entropy > threshold:
                delta = _delta(model.lm_head, torch.cat(states), text, len(prompt), tau, settings)
                with torch.no_grad():
                    logits = model.lm_head(hidden[-1] + delta)
                after = float(_entropy(logits / tau))
                activations.append(Activation(number, entropy, threshold, after, delta, logits))
            entropies.append(entropy)
            thresholds.append(threshold)
        if allowed is not None:
            mask = torch.full_like(logits, -torch.inf)
            mask[list(allowed)] = 0
            logits = logits + mask
        text.append(_choice(logits, tau, generator) if forced is None else forced[number])
        with torch.no_grad():
            output = model.model(torch.tensor([text[-1:]]), past_key_values=cache, use_cache=True)
    return Answer(text[len(prompt) :], activations, entropies, thresholds)


def _choice(logits: Tensor, tau: float, generator: torch.Generator | None) -> int:
    if generator is None:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits.float() / tau, -1), 1, generator=generator))


def _threshold(entropies: Sequence[float], settings: Settings) -> float:
    if len(entropies) < settings.window:
        return settings.warmup_threshold
    last = torch.tensor(entropies[-settings.window :], dtype=torch.float64)
    spread = max(float(last.std()), settings.min_std)
    return max(float(last.mean()) + settings.sensitivity * spread, settings.min_threshold)


def _delta(head: Any, hidden: Tensor, text: Sequence[int], prompt: int, tau: float, settings: Settings) -> Tensor:
    """Minimises (1 - lambda) CE + lambda H over what is added to every hidden state."""
    begin = prompt - 1 if settings.scope == "generated" else 0
    labels = torch.tensor(text[begin + 1 :])
    delta = torch.zeros(hidden.shape[-1], dtype=hidden.dtype, requires_grad=True)
    optimizer = torch.optim.AdamW([delta], lr=settings.learning_rate, eps=1e-5, weight_decay=1e-8)
    with torch.enable_grad():
        for _ in range(settings.steps):
            optimizer.zero_grad()
            cross = torch.nn.functional.cross_entropy(head(hidden[begin:-1] + delta), labels)
            entropy = _entropy(head(hidden[-1] + delta) / tau)
            loss = (1 - settings.entropy_weight) * cross + settings.entropy_weight * entropy
            (delta.grad,) = torch.autograd.grad(loss, delta)
            optimizer.step()
    return delta.detach()


def _entropy(logits: Tensor) -> Tensor:
    log_p = torch.log_softmax(logits, -1)
    return -(log_p.exp() * log_p).sum(-1)
