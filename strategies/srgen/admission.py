"""Turns away, before they cost anything, requests that SRGen would not correct, and says why.

vLLM's own check of a logits processor's arguments sees neither the engine nor the prompt. Under speculative decoding,
for one, vLLM runs no such processor, and says nothing.
"""

import functools
import json
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any

from strategies.reports import OWN_ARGUMENTS
from strategies.srgen.request import ARGUMENT, SRGenRequest, most_positions


def register() -> None:
    """Puts the check before vLLM's own work on a request, and keeps the processor away from where it cannot run. vLLM
    calls this in each of its processes.
    """
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.worker.gpu.sample.logits_processor import loader

    guard(InputProcessor)
    # The second model runner refuses to start beside a processor of the first's kind, asked for or not.
    setattr(loader, "entry_points", _without_ours)  # noqa: B010 - no name of theirs to assign to, for a type checker


def guard(input_processor: type) -> None:
    """Has a class of input processors refuse what `refusal` names; twice is as once."""
    from vllm.exceptions import VLLMValidationError

    process: Any = input_processor.process_inputs  # type: ignore[attr-defined]
    if getattr(process, "knows_srgen", False):
        return

    @functools.wraps(process)
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = getattr(params, "extra_args", None) or {}
        if arguments.get(ARGUMENT) is not None:
            # Behind params: supported tasks, arrival time, adapter.
            adapter = args[2] if len(args) > 2 else kwargs.get("lora_request")
            if (reason := refusal(self.vllm_config, prompt, adapter, arguments)) is not None:
                raise VLLMValidationError(f"{ARGUMENT} cannot be used here: {reason}", parameter="vllm_xargs")
        return process(self, request_id, prompt, params, *args, **kwargs)

    process_inputs.knows_srgen = True  # type: ignore[attr-defined]
    input_processor.process_inputs = process_inputs  # type: ignore[attr-defined]


def refusal(config: Any, prompt: Any, adapter: Any, arguments: Mapping[str, Any]) -> str | None:
    """Why a request would not be corrected; None if it would.

    Args:
        config: the VllmConfig.
        prompt: as vLLM's input processor gets it.
        adapter: the LoRARequest, None for the served weights.
        arguments: the request's extra ones.
    """
    if config.speculative_config is not None:
        return "this engine decodes speculatively, and vLLM then runs no logits processors of others"
    if config.use_v2_model_runner:
        return "it needs vLLM's first model runner: start the server with VLLM_USE_V2_MODEL_RUNNER=0"
    if isinstance(prompt, dict) and ("prompt_embeds" in prompt or prompt.get("type") == "embeds"):
        return "a prompt of embeddings has no tokens to take the cross-entropy of"
    if adapter is not None and adapts_head(adapter.lora_path):
        return "the adapter changes the language model's head"
    if any(name.startswith(OWN_ARGUMENTS) for name in arguments):
        return None  # A strategy's call, of which there may have been others; it is told while it runs.
    tokens = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None
    return _too_long(len(tokens or ()), config.device_config.device_type, arguments)


def _too_long(length: int, device: str, arguments: Mapping[str, Any]) -> str | None:
    try:
        request = SRGenRequest.read(arguments)
    except ValueError:
        return None  # vLLM's own check says so.
    assert request is not None
    most = request.params.most(most_positions(device))
    if request.params.scope == "generated" or length <= most:
        return None
    return f"the prompt has {length} tokens, and with these parameters texts are corrected up to {most}"


@functools.cache
def adapts_head(folder: str) -> bool:
    """Whether the adapter in a folder changes the language model's head."""
    from vllm.lora.utils import get_adapter_absolute_path

    config = json.loads(Path(get_adapter_absolute_path(folder), "adapter_config.json").read_text())
    targets = config.get("target_modules") or ()
    names = [targets] if isinstance(targets, str) else [*targets, *(config.get("modules_to_save") or ())]
    return any(head in name for name in names for head in ("lm_head", "embed_tokens"))


def _without_ours(**params: Any) -> EntryPoints:
    found: Callable[..., EntryPoints] = entry_points
    return EntryPoints(point for point in found(**params) if not point.value.startswith("strategies.srgen."))
