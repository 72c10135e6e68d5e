"""Keeps seeded requests from killing the engine on a CPU, and their answers the same however a prefill is split.

In every step vLLM samples a token for each row of the batch, also for rows whose prompt isn't through yet. It discards
those tokens and winds a seeded row's generator back by its offset. torch's CPU generator has no offset, so the engine
dies (`RuntimeError: CPU Generator does not use offset`). Here such rows don't draw from their request's generator in
the first place: there is nothing to wind back, and the n-th token of an answer always takes the n-th draw.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

PLUGIN_NAME = "redraft_cpu_generator"
"""Name of `register` in the entry-point group `vllm.general_plugins`."""


def register() -> None:
    """Patch vLLM's CPU model runner; vLLM calls this in each of its processes. No effect on other platforms.

    Raises:
        RuntimeError: vLLM's model runner isn't the one that this patch was written for.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    # Only now: the import is slow, and on a GPU useless.
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    patch(CPUModelRunner)


def patch(runner: Any) -> None:
    """Make a class of model runners draw from a request's generator only for tokens that are kept; twice is as once.

    Raises:
        RuntimeError: the class isn't built as this patch expects.
    """
    sample_tokens = getattr(runner, "sample_tokens", None)
    if getattr(sample_tokens, "spares_discarded", False):
        return
    for method, names in USED_NAMES.items():
        code = getattr(inspect.unwrap(getattr(runner, method, None)), "__code__", None)  # type: ignore[arg-type]
        if code is None or not names <= set(code.co_names):
            raise RuntimeError(
                f"redraft can't make seeded requests safe on this vllm: {runner.__name__}.{method} isn't as expected. "
                "Install the vllm version that redraft pins."
            )
    runner.sample_tokens = _spare_discarded(sample_tokens)


def _spare_discarded(sample_tokens: Any) -> Callable[..., Any]:
    @functools.wraps(sample_tokens)
    def wrapper(runner: Any, *args: Any, **kwargs: Any) -> Any:
        # The sampler and the winding back read this very dictionary, by row. Rows move only while a step is prepared,
        # so a generator set aside goes back to the row it came from.
        generators = runner.input_batch.generators
        discarded = runner.discard_request_mask.np
        aside = {row: generators.pop(row) for row in list(generators) if discarded[row]}
        try:
            return sample_tokens(runner, *args, **kwargs)
        finally:
            generators.update(aside)

    wrapper.spares_discarded = True  # type: ignore[attr-defined]
    return wrapper


USED_NAMES = {
    "_prepare_inputs": {"discard_request_mask"},
    "sample_tokens": {"_sample", "_bookkeeping_sync"},
    "_bookkeeping_sync": {"input_batch", "generators", "discard_request_mask", "set_offset"},
}
"""What the methods of vLLM's model runner must use for the patch to mean what it says."""
