"""Adapters (LoRA) on a CPU: that none touches a row of another, and that rows without any pay nothing for them.

vLLM's own CPU kernels gather the weights of an adapter anew for each row of the batch, and read the last adapter's for
rows that have none (index -1). `server.engine.grouped_lora` is put in their place.

Adapters of the embedding or of the head are refused there, as those of unknown layers are. vLLM computes the
log-probabilities of prompts with the slots of the rows that sample, so such an adapter would change, or crash, others;
and being ready for one costs every plain step the head's width.
"""

import functools
from typing import Any

WRAPPER = "server.engine.grouped_lora.GroupedLoRA"


def register() -> None:
    """Patch vLLM's CPU platform and adapter manager; vLLM calls this in each of its processes. No effect on other
    platforms.

    Raises:
        RuntimeError: vLLM isn't the one that this patch was written for.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.lora import model_manager

    patch(type(current_platform), model_manager)


def patch(platform: Any, managers: Any) -> None:
    """Make a platform's adapters be computed by `grouped_lora`, its weights laid out for that; twice is as once.

    Args:
        platform: vLLM's class.
        managers: vLLM's module of adapter managers.

    Raises:
        RuntimeError: they aren't built as this patch expects.
    """
    supported = getattr(managers, "get_supported_lora_modules", None)
    manager = getattr(managers, "LoRAModelManager", None)
    create = getattr(manager, "_create_lora_modules", None)
    if supported is None or create is None or not hasattr(platform, "get_punica_wrapper"):
        raise RuntimeError(
            "redraft can't keep adapters apart on this vllm: it isn't built as expected. "
            "Install the vllm version that redraft pins."
        )
    platform.get_punica_wrapper = classmethod(lambda cls: WRAPPER)
    if getattr(create, "lays_out", False):
        return

    @functools.wraps(supported)
    def get_supported_lora_modules(model: Any) -> list[str]:
        embeddings = {name for module in model.modules() for name in getattr(module, "embedding_modules", None) or ()}
        return [name for name in supported(model) if name not in embeddings]

    @functools.wraps(create)
    def _create_lora_modules(self: Any) -> None:
        create(self)
        from server.engine.grouped_lora import laid_out

        for layer in self.modules.values():
            if hasattr(layer, "output_slices"):  # Linear ones.
                layer.lora_a_stacked, layer.lora_b_stacked = laid_out(layer.lora_a_stacked, layer.lora_b_stacked)

    _create_lora_modules.lays_out = True  # type: ignore[attr-defined]
    managers.get_supported_lora_modules = get_supported_lora_modules
    manager._create_lora_modules = _create_lora_modules  # type: ignore[union-attr]
