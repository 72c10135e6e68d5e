"""Turns redraft's settings into the environment variables and arguments that vLLM is started with."""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from server.engine.cpu_generator import PLUGIN_NAME
from server.engine.hardware import GIB, Hardware, cpu_dtype, kv_cache_gib, thread_binding
from server.models import ResolvedModel
from server.models.adapters import find_adapters, rank_of
from server.settings import Settings

# One step of a small model on two cores then takes about a second, and nothing can be cancelled within a step.
CPU_STEP_TOKENS = 256
CPU_MAX_SEQS = 64
# vLLM's default of 128 would never cache a prompt shorter than that.
CPU_BLOCK_TOKENS = 32
# That of the paper whose adapters are trained while requests wait.
TRAINED_RANK = 8


def engine_environment(
    settings: Settings, model: ResolvedModel, hardware: Hardware, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Variables to set before vllm or huggingface_hub is imported, without those that are set already.

    Raises:
        ValueError: VLLM_PLUGINS leaves out the plugin without which a seeded request kills a CPU engine.
    """
    variables = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_LOGGING_LEVEL": settings.log_level.upper(),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # Logits processors are those of the first model runner; where Triton is found vLLM would take the second.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }
    if settings.srgen_positions is not None:
        variables["REDRAFT_SRGEN_POSITIONS"] = str(settings.srgen_positions)
    if model.local:
        # Else a file that a checkpoint lacks costs minutes of retries.
        variables |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if hardware.device == "cpu":
        plugins = environ.get("VLLM_PLUGINS")
        if plugins is not None and PLUGIN_NAME not in plugins.split(","):
            raise ValueError(f"VLLM_PLUGINS must include {PLUGIN_NAME}: without it a seeded request kills the engine")
        variables["VLLM_CPU_OMP_THREADS_BIND"] = thread_binding(hardware)
    return {name: value for name, value in variables.items() if name not in environ}


def engine_arguments(
    settings: Settings, model: ResolvedModel, hardware: Hardware, extra: Sequence[str] = ()
) -> argparse.Namespace:
    """Arguments as `vllm serve` would have parsed them, for vLLM's engine and for its serving classes.

    Args:
        settings: what the operator decided.
        model: the model to serve.
        hardware: the machine to serve it on.
        extra: vLLM's own flags; they win over what redraft would choose, but not over what redraft decides.

    Raises:
        ValueError: a flag in `extra` is unknown, malformed, or not open to the operator.
    """
    # Importing vllm freezes much of the environment, so not before `engine_environment` had its turn.
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ValueError(f"vLLM flags: {message}")

    if any(flag.partition("=")[0] == "--config" for flag in extra):
        raise ValueError("vLLM flags: --config is not read; use redraft.toml and flags after the --")
    parser = make_arg_parser(Parser(add_help=False, allow_abbrev=False))  # type: ignore[no-untyped-call]
    arguments: argparse.Namespace = parser.parse_args([])
    given = _given(parser, extra)
    _refuse(given)
    adapters = _adapters(settings, given) if settings.adapts else {}
    vars(arguments).update(_decided(settings, model, hardware) | _chosen(settings, hardware) | given | adapters)
    _check_step(arguments)
    try:
        validate_parsed_serve_args(arguments)
    except TypeError as error:
        raise ValueError(str(error)) from error
    return arguments


def _given(parser: argparse.ArgumentParser, extra: Sequence[str]) -> dict[str, Any]:
    """What `extra` sets, by name, without defaults."""
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(list(extra)))


def _decided(settings: Settings, model: ResolvedModel, hardware: Hardware) -> dict[str, Any]:
    """Arguments that follow from redraft's own settings and can't be given as vLLM flags."""
    on_cpu = hardware.device == "cpu"
    dtype = cpu_dtype(hardware) if on_cpu and settings.dtype == "auto" else settings.dtype
    gib = settings.kv_cache_gib
    if gib is None and on_cpu:
        weights = _weights_bytes(Path(model.path), dtype)
        # Trainings have weights of their own.
        beside = int(settings.training_memory_gib * GIB) + weights if settings.training else 0
        gib = kv_cache_gib(hardware, weights + beside)
    chat_template = settings.chat_template or model.chat_template
    tool_call_parser = settings.tool_call_parser or model.tool_call_parser
    return {
        "model": str(model.path),
        "served_model_name": [settings.served_model_name or model.served_name],
        "dtype": dtype,
        # -1: as long as the model takes and the KV cache holds.
        "max_model_len": settings.max_model_len or -1,
        # VLLM_CPU_KVCACHE_SPACE takes whole GiB only.
        "kv_cache_memory_bytes": None if gib is None else int(gib * GIB),
        "max_num_batched_tokens": settings.step_tokens or (CPU_STEP_TOKENS if on_cpu else None),
        "chat_template": None if chat_template is None else str(chat_template),
        "tool_call_parser": tool_call_parser,
        "enable_auto_tool_choice": tool_call_parser is not None,
        "reasoning_parser": settings.reasoning_parser or "",
        "enable_lora": settings.adapts or None,
        "logits_processors": list(settings.logits_processor) or None,
        "otlp_traces_endpoint": settings.otlp_traces_endpoint,
        "sse_keep_alive_interval": settings.heartbeat_seconds,
        "enable_prompt_tokens_details": True,
    }


def _chosen(settings: Settings, hardware: Hardware) -> dict[str, Any]:
    """Arguments that redraft prefers to vLLM's defaults; a vLLM flag changes them."""
    chosen: dict[str, Any] = {"enable_prefix_caching": True, "enable_chunked_prefill": True}
    if settings.log_format == "json":
        chosen["use_tqdm_on_load"] = False  # A progress bar is no JSON.
    if hardware.device == "cpu":
        chosen |= {
            "enforce_eager": not settings.compile,
            "block_size": CPU_BLOCK_TOKENS,
            "max_num_seqs": min(CPU_MAX_SEQS, settings.step_tokens or CPU_STEP_TOKENS),
        }
    elif settings.training:
        from vllm.config import CacheConfig

        chosen["gpu_memory_utilization"] = CacheConfig.gpu_memory_utilization - settings.training_gpu_share
    return chosen


def _adapters(settings: Settings, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments about adapters, those of `given` among them."""
    from vllm.config.lora import LoRAConfig, MaxLoRARanks
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath

    found = {} if settings.adapters is None else find_adapters(settings.adapters)
    named = list(given.get("lora_modules") or [])
    slots = given.get("max_loras", settings.adapter_slots)
    ranks = [rank_of(folder) for folder in found.values()] + [TRAINED_RANK] * settings.training
    ranks += [LoRAConfig.max_lora_rank] * settings.enable_lora
    # Every step reads, and computes with, room for the largest rank.
    allowed: tuple[int, ...] = get_args(MaxLoRARanks)
    chosen: dict[str, Any] = {
        "max_loras": slots,
        # Those that are trained are never put out of the engine by the operator's, nor these by those.
        "max_cpu_loras": slots + len(found) + len(named),
        "max_lora_rank": next((rank for rank in allowed if rank >= max(ranks, default=1)), allowed[-1]),
    }
    modules = named + [LoRAModulePath(name, str(folder)) for name, folder in found.items()]
    return {**chosen, **given} | ({"lora_modules": modules} if modules else {})


def _weights_bytes(path: Path, dtype: str) -> int:
    """Bytes that the weights of a local checkpoint take once loaded, at most; 0 for one that isn't local."""
    files = sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in path.glob(pattern))
    return files * 2 if dtype == "float32" else files


def _check_step(arguments: argparse.Namespace) -> None:
    step, sequences = arguments.max_num_batched_tokens, arguments.max_num_seqs
    if step is not None and sequences is not None and step < sequences:
        raise ValueError(f"--max-num-seqs {sequences} needs --step-tokens of {sequences} or more, not {step}")


def _refuse(given: Mapping[str, Any]) -> None:
    """Raise ValueError if a flag was given that redraft decides, or that isn't the engine's business."""
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    frontend = {field.name for field in dataclasses.fields(FrontendArgs)} | LAUNCHER
    for name in given:
        flag = "--" + name.replace("_", "-")
        if name in OWNED:
            raise ValueError(f"vLLM flags: {flag} is redraft's to set; use {OWNED[name]}")
        if name in frontend - OPEN:
            raise ValueError(f"vLLM flags: {flag} is about vLLM's HTTP server, which redraft replaces")


OWNED: Mapping[str, str] = {
    "model_tag": "--model before the --",
    "model": "--model before the --",
    "served_model_name": "--served-model-name before the --",
    "host": "--host before the --",
    "port": "--port before the --",
    "api_key": "--api-key before the --",
    "dtype": "--dtype before the --",
    "max_model_len": "--max-model-len before the --",
    "kv_cache_memory_bytes": "--kv-cache-gib before the --",
    "max_num_batched_tokens": "--step-tokens before the --",
    "chat_template": "--chat-template before the --",
    "tool_call_parser": "--tool-call-parser before the --",
    "enable_auto_tool_choice": "--tool-call-parser before the --",
    "reasoning_parser": "--reasoning-parser before the --",
    "enable_lora": "--enable-lora before the --",
    "logits_processors": "--logits-processor before the --",
    "otlp_traces_endpoint": "--otlp-traces-endpoint before the --",
    "uvicorn_log_level": "--log-level before the --",
    "sse_keep_alive_interval": "--heartbeat-seconds before the --",
    "enable_prompt_tokens_details": "nothing: it is always on",
    "logprobs_mode": "nothing: strategies read raw log-probabilities",
}
"""Arguments that redraft decides, and where."""

LAUNCHER = frozenset({"headless", "api_server_count", "grpc"})
"""Arguments of vLLM's launcher, which aren't fields of any of its classes."""

OPEN = frozenset(
    {
        "chat_template_content_format",
        "default_chat_template_kwargs",
        "enable_force_include_usage",
        "enable_log_deltas",
        "enable_log_outputs",
        "exclude_tools_when_tool_choice_none",
        "lora_modules",
        "max_log_len",
        "return_tokens_as_token_ids",
        "tool_parser_plugin",
        "tool_strict_level",
    }
)
"""Arguments of vLLM's HTTP server that its serving classes read, and that open no route."""
