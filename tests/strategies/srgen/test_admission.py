"""Requests that SRGen would not correct."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError

from strategies.srgen import admission
from strategies.srgen.admission import guard, refusal, register

ANY = {"srgen": "{}"}


def config_of(speculative: object = None, second_runner: bool = False) -> Any:
    device = SimpleNamespace(device_type="cpu")
    return SimpleNamespace(speculative_config=speculative, use_v2_model_runner=second_runner, device_config=device)


def adapter(folder: Path, targets: list[str]) -> Any:
    (folder / "adapter_config.json").write_text(json.dumps({"target_modules": targets}))
    return SimpleNamespace(lora_path=str(folder))


def test_what_is_corrected_is_let_in(tmp_path: Path) -> None:
    prompt = {"type": "token", "prompt_token_ids": [1]}
    assert refusal(config_of(), prompt, None, ANY) is None
    assert refusal(config_of(), "text", adapter(tmp_path, ["q_proj"]), ANY) is None


def test_what_is_not_is_told_why(tmp_path: Path) -> None:
    prompt = {"type": "token", "prompt_token_ids": [1]}
    assert "speculatively" in str(refusal(config_of(speculative=object()), prompt, None, ANY))
    assert "VLLM_USE_V2_MODEL_RUNNER=0" in str(refusal(config_of(second_runner=True), prompt, None, ANY))
    assert "embeddings" in str(refusal(config_of(), {"type": "embeds", "prompt_embeds": object()}, None, ANY))
    assert "head" in str(refusal(config_of(), prompt, adapter(tmp_path, ["lm_head"]), ANY))


@pytest.mark.parametrize(
    ("length", "params", "refused"),
    [
        (100, {}, False),
        (101, {}, True),
        (101, {"scope": "generated"}, False),
        (101, {"steps": 1}, True),
        (50, {"steps": 6}, False),
        (51, {"steps": 6}, True),
    ],
)
def test_prompts_that_are_too_long(
    monkeypatch: pytest.MonkeyPatch, length: int, params: dict[str, Any], refused: bool
) -> None:
    monkeypatch.setenv("REDRAFT_SRGEN_POSITIONS", "100")
    prompt, arguments = {"type": "token", "prompt_token_ids": [1] * length}, {"srgen": json.dumps(params)}
    reason = refusal(config_of(), prompt, None, arguments)
    assert (reason is not None and f"the prompt has {length} tokens" in reason) == refused
    # Those of a strategy are told as they run: an earlier call may have an answer.
    assert refusal(config_of(), prompt, None, arguments | {"redraft_reports": "x"}) is None


def test_wrong_arguments_are_left_to_vllm() -> None:
    assert refusal(config_of(), {"type": "token", "prompt_token_ids": [1]}, None, {"srgen": "nonsense"}) is None


class InputProcessor:
    """As much of vLLM's as the check sees."""

    def __init__(self, config: Any) -> None:
        self.vllm_config = config

    def process_inputs(
        self,
        request_id: str,
        prompt: Any,
        params: Any,
        supported_tasks: Any,
        arrival_time: float | None = None,
        lora_request: Any = None,
    ) -> str:
        return request_id


@pytest.fixture
def guarded() -> type[InputProcessor]:
    kind = type("Guarded", (InputProcessor,), {"process_inputs": InputProcessor.process_inputs})
    guard(kind)
    guard(kind)
    return kind


def test_only_requests_with_srgen_are_checked(guarded: type[InputProcessor], tmp_path: Path) -> None:
    processor = guarded(config_of(speculative=object()))
    for extra in (None, {}, {"other": "x"}):
        assert processor.process_inputs("r", {}, SimpleNamespace(extra_args=extra), ()) == "r"
    assert processor.process_inputs("r", {}, SimpleNamespace(), ()) == "r"  # As of pooling.
    with pytest.raises(VLLMValidationError, match=r"srgen cannot be used here: .*speculatively"):
        processor.process_inputs("r", {}, SimpleNamespace(extra_args={"srgen": "{}"}), ())
    plain = guarded(config_of())
    asked = SimpleNamespace(extra_args={"srgen": "{}"})
    assert plain.process_inputs("r", {}, asked, ()) == "r"
    adapted = adapter(tmp_path, ["lm_head"])
    with pytest.raises(VLLMValidationError, match="head"):
        plain.process_inputs("r", {}, asked, (), None, adapted)
    with pytest.raises(VLLMValidationError, match="head"):
        plain.process_inputs("r", {}, asked, (), lora_request=adapted)


def test_where_the_adapter_stands_among_vllms_arguments() -> None:
    import inspect

    from vllm.v1.engine.input_processor import InputProcessor as Real

    names = list(inspect.signature(Real.process_inputs).parameters)
    assert names[:4] == ["self", "request_id", "prompt", "params"]
    assert names[6] == "lora_request"


def test_the_second_model_runner_starts_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which vLLM takes by default on a GPU, and which refuses processors of the first's kind."""
    from vllm.v1.worker.gpu.sample.logits_processor import loader

    monkeypatch.setattr(loader, "entry_points", entry_points)
    with pytest.raises(ValueError, match="V1-interface"):
        loader._load_v2_logitsprocs_plugins()
    register()
    assert loader._load_v2_logitsprocs_plugins() == []


def test_vllm_finds_the_plugin() -> None:
    (plugin,) = entry_points(group="vllm.general_plugins", name="redraft_srgen")
    assert plugin.load() is admission.register
