"""A model as it is trained: frozen in part, or with an adapter, and with a token that it is to say."""

from typing import Any

import torch
from peft import PeftModel
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from trainer.lora import with_adapter
from trainer.settings import FitSettings


def loaded(
    path: str, tokenizer: PreTrainedTokenizerBase, settings: FitSettings, token: str | None
) -> PreTrainedModel | PeftModel:
    """The model, ready to be trained: frozen in part, or with an adapter, and with a token that it is to say.

    Raises:
        ValueError: the token is new, and the adapter is not to be merged.
    """
    config = AutoConfig.from_pretrained(path)
    # SDPA knows no cap on what is attended to (Gemma 2), and would train another model.
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    model: Any = AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, settings.dtype), attn_implementation="eager" if capped else "sdpa"
    )
    size = len(tokenizer)
    row = None if token is None else add_token(model, tokenizer, token)
    if settings.lora is not None:
        if not settings.merge:
            if len(tokenizer) > size:
                raise ValueError(f"an adapter alone has no row for the new token {token!r}: merge it")
            row = None  # vLLM takes no part of the embedding in an adapter.
        # vLLM takes no whole embedding beside an adapter; one row can be merged.
        rows = () if row is None else (row,)
        return with_adapter(model, settings.lora.rank, settings.lora.alpha, settings.seed, rows)
    freeze(model, settings, row)
    found: PreTrainedModel = model
    return found


def add_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """One more token, which begins as the mean of all others; its id. A token that is there already stays as it is."""
    known = tokenizer.get_vocab().get(token)
    if known is not None:
        return int(known)
    tokenizer.add_special_tokens({"additional_special_tokens": [token]}, replace_extra_special_tokens=False)
    added = int(tokenizer.convert_tokens_to_ids(token))  # type: ignore[arg-type]
    if added >= len(embeddings_of(model)[0]):
        # Its own way draws them from a distribution: not the same every time, and slow.
        model.resize_token_embeddings(added + 1, mean_resizing=False)
    with torch.no_grad():
        for weight in embeddings_of(model):
            # Rows behind it, if any, are padding.
            weight[added] = weight[:added].mean(0)
    return added


def freeze(model: PreTrainedModel, settings: FitSettings, row: int | None) -> None:
    """Leaves out of the training what the settings say. Embeddings of which a token is learnt are not: see OneRow."""
    count = model.config.get_text_config().num_hidden_layers
    # Each family calls them otherwise.
    layers = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == count]
    for layer in layers[0][: int(settings.frozen * count)]:
        layer.requires_grad_(False)
    if not settings.freeze_embeddings:
        return
    for weight in embeddings_of(model):
        weight.requires_grad_(row is not None)
    if settings.frozen and row is not None and len(embeddings_of(model)) == 1:
        # The row learns as a part of the head, with which it is tied: as an input its gradient would come through all
        # frozen layers, which takes half as long again.
        inputs: torch.nn.Module = model.get_input_embeddings()
        inputs.register_forward_hook(lambda module, given, found: found.detach())


class OneRow(TrainerCallback):
    """Of frozen embeddings, trains one token's row.

    It acts on the weights that the optimizer is given, which are shares of the model's where several GPUs have them.
    """

    def __init__(self, row: int) -> None:
        self._row = row

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Has all other rows' gradients be nothing, before anything reads them."""
        for weight in embeddings_of(inner_of(model)):
            keep = torch.zeros(len(weight), 1, dtype=weight.dtype, device=weight.device)
            keep[self._row] = 1
            if isinstance(weight, DTensor):
                keep = distribute_tensor(keep, weight.device_mesh, weight.placements)

            def mask(weight: torch.Tensor, keep: torch.Tensor = keep) -> None:
                assert weight.grad is not None
                weight.grad.mul_(keep)

            weight.register_post_accumulate_grad_hook(mask)


def embeddings_of(model: PreTrainedModel) -> list[Any]:
    """Weights of the embedding and of the head, which may be the same."""
    layers: Any = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
    return list({id(layer.weight): layer.weight for layer in layers}.values())


def inner_of(model: Any) -> PreTrainedModel:
    """The model itself, inside of an adapter."""
    found: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inner: PreTrainedModel = found
    return inner
