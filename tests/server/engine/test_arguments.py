from pathlib import Path
from typing import Any

import pytest

from server.engine.arguments import engine_arguments, engine_environment
from server.engine.cpu_generator import PLUGIN_NAME
from server.engine.hardware import GIB, Hardware
from server.models import ResolvedModel
from server.settings import Settings

CPU = Hardware(device="cpu", cores=(0, 1, 2), memory_bytes=10 * GIB, cpu_flags=frozenset({"avx2"}))
CUDA = Hardware(device="cuda", cores=(0, 1, 2), memory_bytes=10 * GIB, cpu_flags=frozenset({"avx2"}))
LOCAL = ResolvedModel(path="/models/tiny", served_name="tiny", local=True)


def test_environment_on_cpu() -> None:
    variables = engine_environment(Settings(), LOCAL, CPU, {})
    assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "0-2"
    assert variables["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert variables["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert variables["HF_HUB_OFFLINE"] == variables["TRANSFORMERS_OFFLINE"] == "1"


def test_environment_on_cuda_binds_no_threads() -> None:
    variables = engine_environment(Settings(), LOCAL, CUDA, {})
    assert "VLLM_CPU_OMP_THREADS_BIND" not in variables
    assert variables["VLLM_USE_V2_MODEL_RUNNER"] == "0"


def test_a_hub_model_may_be_downloaded() -> None:
    variables = engine_environment(Settings(), ResolvedModel("org/model", "model"), CPU, {})
    assert "HF_HUB_OFFLINE" not in variables


def test_the_operators_variables_stay() -> None:
    theirs = {"VLLM_CPU_OMP_THREADS_BIND": "0", "HF_HUB_OFFLINE": "0"}
    assert not engine_environment(Settings(), LOCAL, CPU, theirs).keys() & theirs.keys()


def test_excluding_the_plugin_for_seeds_is_refused_on_cpu() -> None:
    with pytest.raises(ValueError, match=PLUGIN_NAME):
        engine_environment(Settings(), LOCAL, CPU, {"VLLM_PLUGINS": "other"})
    engine_environment(Settings(), LOCAL, CPU, {"VLLM_PLUGINS": f"other,{PLUGIN_NAME}"})
    engine_environment(Settings(), LOCAL, CUDA, {"VLLM_PLUGINS": "other"})


def test_arguments_on_cpu() -> None:
    arguments = engine_arguments(Settings(), LOCAL, CPU)
    assert arguments.model == "/models/tiny"
    assert arguments.served_model_name == ["tiny"]
    assert arguments.dtype == "float32"
    assert arguments.max_model_len == -1
    assert arguments.enforce_eager
    assert arguments.block_size == 32
    assert arguments.max_num_batched_tokens == 256
    assert arguments.max_num_seqs == 64
    assert arguments.kv_cache_memory_bytes == 2 * GIB
    assert not arguments.enable_auto_tool_choice
    assert arguments.logits_processors is None
    assert arguments.host is None
    assert not arguments.enable_lora


def test_arguments_on_cuda_leave_the_scheduler_to_vllm() -> None:
    arguments = engine_arguments(Settings(), LOCAL, CUDA)
    assert arguments.dtype == "auto"
    assert not arguments.enforce_eager
    assert arguments.block_size is arguments.max_num_batched_tokens is arguments.max_num_seqs is None
    assert arguments.kv_cache_memory_bytes is None


def test_settings_reach_vllm(tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages }}")
    settings = Settings(
        served_model_name="mine",
        dtype="bfloat16",
        max_model_len=512,
        kv_cache_gib=0.5,
        step_tokens=32,
        compile=True,
        chat_template=template,
        tool_call_parser="hermes",
        reasoning_parser="qwen3",
        enable_lora=True,
        logits_processor=("package.module:Processor",),
        otlp_traces_endpoint="http://collector:4317",
    )
    arguments = engine_arguments(settings, LOCAL, CPU)
    assert arguments.served_model_name == ["mine"]
    assert arguments.dtype == "bfloat16"
    assert arguments.max_model_len == 512
    assert arguments.kv_cache_memory_bytes == GIB // 2
    assert arguments.max_num_batched_tokens == arguments.max_num_seqs == 32
    assert not arguments.enforce_eager
    assert arguments.chat_template == str(template)
    assert arguments.tool_call_parser == "hermes"
    assert arguments.enable_auto_tool_choice
    assert arguments.reasoning_parser == "qwen3"
    assert arguments.enable_lora
    assert (arguments.max_loras, arguments.max_cpu_loras) == (4, 4)
    assert arguments.logits_processors == ["package.module:Processor"]
    assert arguments.otlp_traces_endpoint == "http://collector:4317"


def test_the_models_own_template_and_parser_are_the_default(tmp_path: Path) -> None:
    theirs, mine = tmp_path / "theirs.jinja", tmp_path / "mine.jinja"
    for template in (theirs, mine):
        template.write_text("{{ messages }}")
    model = ResolvedModel("/models/tiny", "tiny", chat_template=theirs, tool_call_parser="hermes", local=True)
    arguments = engine_arguments(Settings(), model, CPU)
    assert (arguments.chat_template, arguments.tool_call_parser) == (str(theirs), "hermes")
    arguments = engine_arguments(Settings(chat_template=mine, tool_call_parser="mistral"), model, CPU)
    assert (arguments.chat_template, arguments.tool_call_parser) == (str(mine), "mistral")


def test_adapters_of_a_folder(tmp_path: Path) -> None:
    """Each has a place of its own beside the slots."""
    for name, rank in (("one", 4), ("two", 20)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(f'{{"r": {rank}}}')
    arguments = engine_arguments(Settings(adapters=tmp_path, adapter_slots=3), LOCAL, CPU)
    assert arguments.enable_lora
    assert (arguments.max_loras, arguments.max_cpu_loras) == (3, 5)
    assert [(one.name, one.path) for one in arguments.lora_modules] == [
        ("one", str(tmp_path / "one")),
        ("two", str(tmp_path / "two")),
    ]
    assert arguments.max_lora_rank == 32
    assert engine_arguments(Settings(training=True), LOCAL, CPU).enable_lora
    flags = ["--lora-modules", "mine=/models/mine", "--max-loras", "8"]
    arguments = engine_arguments(Settings(adapters=tmp_path, enable_lora=True), LOCAL, CPU, flags)
    assert [one.name for one in arguments.lora_modules] == ["mine", "one", "two"]
    assert (arguments.max_loras, arguments.max_cpu_loras, arguments.max_lora_rank) == (8, 11, 32)


def test_trainings_have_memory_of_their_own() -> None:
    def cache(**flags: Any) -> float:
        return float(engine_arguments(Settings(**flags), LOCAL, CPU).kv_cache_memory_bytes)

    assert cache() - cache(training=True, training_memory_gib=2) == pytest.approx(GIB / 2)  # A quarter of it.
    share = {
        flag: engine_arguments(Settings(training=flag), LOCAL, CUDA).gpu_memory_utilization for flag in (False, True)
    }
    assert share[False] - share[True] == pytest.approx(0.2)


def test_room_for_the_largest_rank(tmp_path: Path) -> None:
    """And no more, for each step pays for it."""
    training = Settings(training=True)
    assert engine_arguments(training, LOCAL, CPU).max_lora_rank == 8
    assert engine_arguments(training, LOCAL, CPU, ["--max-lora-rank", "64"]).max_lora_rank == 64
    assert engine_arguments(Settings(enable_lora=True), LOCAL, CPU).max_lora_rank == 16


def test_weights_leave_less_for_the_kv_cache(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(2 * GIB)
    model = ResolvedModel(str(tmp_path), "big", local=True)
    # 10 GiB, less 2 for processes, less twice 2 for 16-bit weights in float32: a quarter of 4.
    assert engine_arguments(Settings(), model, CPU).kv_cache_memory_bytes == GIB
    assert engine_arguments(Settings(dtype="bfloat16"), model, CPU).kv_cache_memory_bytes == GIB * 3 // 2


def test_vllm_flags_win_over_what_redraft_merely_prefers() -> None:
    flags = ["--max-num-seqs", "8", "--block_size=64", "--no-enable-prefix-caching", "--seed", "7", "--max-loras=4"]
    arguments = engine_arguments(Settings(enable_lora=True), LOCAL, CPU, flags)
    assert (arguments.max_num_seqs, arguments.block_size, arguments.seed, arguments.max_loras) == (8, 64, 7, 4)
    assert not arguments.enable_prefix_caching


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--model", "other"], "--model before"),
        (["other"], "--model before"),
        (["--host", "0.0.0.0"], "--host before"),
        # Even where it repeats vLLM's default.
        (["--port", "8000"], "--port before"),
        (["--api-key=secret"], "--api-key before"),
        (["--api_key=secret"], "--api-key before"),
        (["--max-num-batched-tokens", "512"], "--step-tokens"),
        (["--kv-cache-memory-bytes", "1G"], "--kv-cache-gib"),
        (["--no-enable-lora"], "--enable-lora before"),
        (["--logits-processors", "a:B"], "--logits-processor before"),
        (["--logprobs-mode", "processed_logprobs"], "raw log-probabilities"),
        (["--config", "file.yaml"], "redraft.toml"),
        (["--config=file.yaml"], "redraft.toml"),
        (["--middleware", "module.Class"], "HTTP server"),
        (["--ssl-keyfile", "key.pem"], "HTTP server"),
        (["--root-path", "/v2"], "HTTP server"),
        (["--enable-scale-out"], "HTTP server"),
        (["--tool-server", "demo"], "HTTP server"),
        (["--trust-request-chat-template"], "HTTP server"),
        (["--api-server-count", "2"], "HTTP server"),
        (["-asc", "2"], "HTTP server"),
        (["--headless"], "HTTP server"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--max-num-s", "8"], "--max-num-s"),
        (["--max-num-seqs", "many"], "many"),
        (["--max-num-seqs", "300"], "--step-tokens of 300"),
        (["--enable-log-outputs"], "--enable-log-requests"),
    ],
)
def test_refused_flags(flags: list[str], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        engine_arguments(Settings(), LOCAL, CPU, flags)


def test_vllm_makes_a_configuration_of_the_arguments(tiny_model: Path) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("checks what vLLM makes of the arguments on a CPU")
    model = ResolvedModel(str(tiny_model), "tiny", local=True)
    config = AsyncEngineArgs.from_cli_args(engine_arguments(Settings(), model, CPU)).create_engine_config()
    assert config.cache_config.block_size == 32
    assert config.cache_config.enable_prefix_caching
    assert config.cache_config.kv_cache_memory_bytes == pytest.approx(2 * GIB, rel=0.01)
    assert config.scheduler_config.enable_chunked_prefill
    assert config.scheduler_config.max_num_batched_tokens == 256
    assert config.model_config.max_model_len == 2048
    assert not config.use_v2_model_runner
