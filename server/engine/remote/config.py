"""vLLM's configuration of a model that is served elsewhere: what its renderer, parsers and serving classes need."""

import argparse
from collections.abc import Sequence
from typing import Any

from server.engine.arguments import OPEN, engine_arguments
from server.engine.hardware import Hardware
from server.engine.remote.probe import Found
from server.models import ResolvedModel
from server.settings import Settings

OF_THE_MODEL = frozenset(
    {
        "config_format",
        "generation_config",
        "hf_config_path",
        "hf_overrides",
        "override_generation_config",
        "revision",
        "tokenizer",
        "tokenizer_mode",
        "tokenizer_revision",
        "trust_remote_code",
    }
)
"""Arguments of vLLM's engine that change how a prompt is made or an answer is read."""


def remote_arguments(
    settings: Settings, model: ResolvedModel, hardware: Hardware, extra: Sequence[str], found: Found
) -> argparse.Namespace:
    """Arguments for vLLM's serving classes in front of servers elsewhere.

    Args:
        settings: what the operator decided.
        model: the model's files on this machine.
        hardware: this machine.
        extra: vLLM's own flags.
        found: what the servers serve.

    Raises:
        ValueError: a flag is about an engine that is not started here, or the servers cannot do what a setting wants.
    """
    if settings.adapters is not None and not found.loads_adapters:
        raise ValueError(
            "--adapters: the upstream servers load none; start them with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
        )
    arguments = engine_arguments(settings, model, hardware, extra)
    given = {flag.partition("=")[0].removeprefix("--").replace("-", "_") for flag in extra if flag.startswith("--")}
    if wrong := sorted(given - OPEN - OF_THE_MODEL - {f"no_{name}" for name in OPEN}):
        flags = ", ".join("--" + name.replace("_", "-") for name in wrong)
        raise ValueError(
            f"vLLM flags: {flags}: with --engine remote that is said where the upstream servers are started"
        )
    decided: dict[str, Any] = {
        "served_model_name": [found.identity.model],
        "max_model_len": found.identity.max_model_len or -1,
        # What an upstream server has seen, this process does not know: every picture is sent whole.
        "mm_processor_cache_gb": 0,
    }
    vars(arguments).update(decided)
    return arguments


def remote_config(arguments: argparse.Namespace) -> Any:
    """As vLLM's own render server, which has no engine either, makes it."""
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    engine = AsyncEngineArgs.from_cli_args(arguments)
    model = engine.create_model_config()
    model.quantization = None  # Nothing is computed here: no kernel need be there.
    return VllmConfig(
        model_config=model,
        structured_outputs_config=engine.create_structured_outputs_config(),
    )
