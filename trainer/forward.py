"""A forward pass that computes no more than trl's losses read.

trl's trainers call `model(input_ids, attention_mask, labels, fused_lm_head=True)` and read log-probabilities of labels.
On a CPU trl's own such forward multiplies every position with the head, and a preference pair's common beginning goes
through the model twice. Here
- the head sees the positions with labels alone, which is most of the saving where prompts are long;
- a pair is one sequence: its chosen answer, then what the rejected one has for itself. Attention and positions are
  those of the two (prefix sharing, arXiv 2410.20305): for ReVISE's pairs, which part with a token or two, half of it.
"""

from types import MethodType
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

Tensor = torch.Tensor
IGNORED = -100


def install(model: PreTrainedModel, *, pairs: bool) -> None:
    """Has a model that trl gave its fused head compute it so.

    Mixtures of experts, whose loss has a part of its own, stay as trl has them. Pairs are two sequences where a layer
    attends to less than all before it, or remembers in another way.

    Args:
        model: the model itself, inside of any adapter.
        pairs: batches are those of preference pairs, all chosen rows before all rejected ones.
    """
    before = model.forward
    config = model.config.get_text_config()
    if getattr(config, "output_router_logits", None) is not None:
        return
    hidden_of = shared_hidden if pairs and shares_prefixes(model) else _hidden

    def forward(
        self: PreTrainedModel,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head or labels is None:
            more = {} if labels is None else {"labels": labels, "num_items_in_batch": num_items_in_batch}
            return before(*args, **more, **kwargs)
        hidden = hidden_of(self, **kwargs | {"use_cache": False})
        return scored(self, hidden[:, :-1], labels[:, 1:])

    model.forward = MethodType(forward, model)


def shares_prefixes(model: PreTrainedModel) -> bool:
    """Whether two rows can go through a model as one: tried with a few tokens, but for windows, which are longer."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    if set(layers or ()) - {"full_attention"} or (layers is None and getattr(config, "sliding_window", None)):
        return False
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, config.vocab_size, (2, 9), generator=draw).to(model.device)
    ids[1, :4] = ids[0, :4]
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    was_training = model.training
    model.train(False)
    with torch.no_grad():
        try:
            shared, alone = shared_hidden(model, **given), _hidden(model, **given)
        except (TypeError, ValueError, RuntimeError):  # It takes no mask or positions of such a shape.
            return False
        finally:
            model.train(was_training)
    # Of the last position nothing is read.
    difference = (shared - alone)[:, :-1].float().norm() / alone[:, :-1].float().norm()
    return bool(difference < 0.02)


def scored(model: PreTrainedModel, hidden: Tensor, labels: Tensor) -> FusedCausalLMOutput:
    """What trl reads, of the labelled positions alone.

    Args:
        model: with the head.
        hidden: [B, T, H], of the position before each label.
        labels: [B, T], IGNORED where there is none.
    """
    mask = labels != IGNORED
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    logits = _scaled(model, head(hidden[mask]).float())
    logprobs = logits.log_softmax(-1)
    wanted = labels[mask]
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        top = logits.argmax(-1) == wanted
        mean = logits.mean(-1)

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    found = logprobs.gather(-1, wanted[:, None])[:, 0]
    return FusedCausalLMOutput(
        loss=-found.sum() / mask.sum().clamp(min=1),
        log_probs=spread(found),
        entropy=spread(entropy),
        mean_logits=spread(mean),
        is_top1=spread(top),
        label_mask=mask,
    )


def _scaled(model: PreTrainedModel, logits: Tensor) -> Tensor:
    """What some models do behind their heads: a factor, which each family calls otherwise, and then a soft cap."""
    config = model.config.get_text_config()
    factors = [getattr(config, name, None) for name in ("logit_scale", "output_multiplier", "lm_head_multiplier")]
    if scaling := getattr(config, "logits_scaling", None):
        factors.append(scaling if config.model_type == "hyperclovax" else 1 / scaling)
    factor = next((factor for factor in factors if factor is not None), 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    logits = logits * factor
    return logits if cap is None else cap * (logits / cap).tanh()


def shared_hidden(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Tensor:
    """Hidden states [2B, T, H] of B pairs, each of which went through the model as one sequence.

    Positions that no label is read from hold those of others.
    """
    chosen, rejected = input_ids.chunk(2)
    length, other = (part.sum(1) for part in attention_mask.chunk(2))
    place = torch.arange(input_ids.shape[1], device=input_ids.device)
    # Padding is no part of what is common.
    same = (chosen == rejected) & (place < torch.minimum(length, other)[:, None])
    # Of the last token of a row nothing is read.
    first = length - 1
    common = torch.minimum(same.long().cumprod(1).sum(1), first)
    own = (other - 1 - common).clamp(min=0)
    width = int((first + own).max())
    slot = torch.arange(width, device=input_ids.device)[None]
    late = slot >= first[:, None]
    at = torch.where(late, slot - first[:, None] + common[:, None], slot).clamp(max=input_ids.shape[1] - 1)
    packed = torch.where(late, rejected.gather(1, at), chosen.gather(1, at))
    used = slot < (first + own)[:, None]
    hidden = _hidden(
        model,
        input_ids=packed,
        attention_mask=_mask(late, common, used),
        position_ids=torch.where(used, at, 0),
        **kwargs,
    )
    # Where each position of the two rows went.
    of_chosen = place[None].clamp(max=width - 1).expand(len(chosen), -1)
    of_rejected = torch.where(place < common[:, None], place, place - common[:, None] + first[:, None])
    index = torch.cat([of_chosen, of_rejected.clamp(max=width - 1)])
    return hidden.repeat(2, 1, 1).gather(1, index[:, :, None].expand(-1, -1, hidden.shape[2]))


def _mask(late: Tensor, common: Tensor, used: Tensor) -> Tensor:
    """[B, 1, width, width]: what each place attends to; the rejected answer to the common beginning and to itself."""
    width = late.shape[1]
    place = torch.arange(width, device=late.device)
    causal = place[:, None] >= place[None, :]
    theirs = ~late[:, None, :] & (place[None, None, :] >= common[:, None, None])
    seen = causal[None] & ~(late[:, :, None] & theirs) & used[:, None, :]
    # A place that is not used sees itself, for a softmax over nothing is no number.
    return (seen | torch.eye(width, dtype=torch.bool, device=late.device))[:, None]


def _hidden(model: PreTrainedModel, **kwargs: Any) -> Tensor:
    backbone: Any = model.base_model
    hidden: Tensor = backbone(**kwargs).last_hidden_state
    return hidden
