"""Adapters: the one place that gives a model one, and how TT-SI fits it while a request waits.

Offline trainings have trl fit theirs (`trainer.fitting`), with batches, preferences and several processes.

Defaults are those of TT-SI (arXiv 2510.07841): rank 8, alpha 16, all linear layers, 5 epochs, batches of one, learning
rate 1e-4, cosine, warm-up over 3% of the steps. The warm-up ends at the full rate, rather than begin at zero: of five
steps, that would waste one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

MAX_GRADIENT_NORM = 1.0
Schedule = Literal["cosine", "constant"]


class NotFitted(ValueError):
    """The examples lead to no adapter that could be served."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text of which the last tokens are learnt."""

    token_ids: tuple[int, ...]
    learnt: int
    """How many, from the end; at least one, and not all."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """How an adapter is fitted."""

    rank: int = 8
    alpha: int = 16
    epochs: int = 5
    learning_rate: float = 1e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.03
    """Share of the steps."""
    seed: int = 0
    """Of the first weights, and of the order of the examples."""

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, as a share of the full one."""
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return (step + 1) / rising
        if self.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1))) / 2


def fit(
    model: PreTrainedModel,
    examples: Sequence[Example],
    settings: LoraSettings,
    folder: Path,
    on_step: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Writes an adapter of a model, in peft's format, to a folder; the model stays as it is.

    Args:
        model: the base weights.
        examples: what to learn, one a step.
        settings: how.
        folder: where to write.
        on_step: told the epoch, counted from 1, and the loss of each step, in nats per token; may raise, to end it all.

    Raises:
        NotFitted: a loss or a weight is not finite.
    """
    # There is no dropout to train with.
    adapted = with_adapter(model, settings.rank, settings.alpha, settings.seed).eval()
    try:
        _descend(adapted, examples, settings, on_step)
        adapted.save_pretrained(str(folder))
    finally:
        adapted.unload()


def loss_of(model: torch.nn.Module, example: Example) -> torch.Tensor:
    """The mean cross-entropy of an example's learnt tokens, in nats. Only their logits are computed."""
    ids = torch.tensor([example.token_ids], device=next(model.parameters()).device)
    logits = model(input_ids=ids, logits_to_keep=example.learnt + 1).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits.float(), ids[0, -example.learnt :])


def with_adapter(model: PreTrainedModel, rank: int, alpha: int, seed: int, tokens: Sequence[int] = ()) -> PeftModel:
    """A model with a new adapter in all of its linear layers, which alone is trained.

    Args:
        model: the base weights, which are changed in place.
        rank: of the adapter.
        alpha: what the adapter adds is scaled by alpha over rank.
        seed: of its first weights; no other random number depends on it.
        tokens: whose rows of the embedding and of the head are trained, too.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        target_modules="all-linear",
        trainable_token_indices=_rows_of(model, tokens) if tokens else None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


def _rows_of(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, list[int]]:
    """Rows of tokens in the embedding, and in the head, which alone says them, where it has weights of its own."""
    ends: Any = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
    weights = {id(end.weight): end for end in reversed(ends)}  # Of tied ones the embedding counts.
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    return {names[id(end)]: list(tokens) for end in weights.values()}


def _descend(
    model: PeftModel, examples: Sequence[Example], settings: LoraSettings, on_step: Callable[[int, float], None]
) -> None:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    order = torch.Generator().manual_seed(settings.seed)
    steps = settings.epochs * len(examples)
    for step in range(steps):
        epoch, place = divmod(step, len(examples))
        if place == 0:
            shuffled = torch.randperm(len(examples), generator=order).tolist()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * settings.rate(step, steps)
        loss = loss_of(model, examples[shuffled[place]])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, MAX_GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not math.isfinite(value := float(loss.detach())):
            raise NotFitted(f"the loss of step {step} is {value}")
        on_step(epoch + 1, value)
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        raise NotFitted("the adapter has weights that are not finite")
