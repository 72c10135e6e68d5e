import importlib.metadata
from pathlib import Path

from benchmarks import bare_vllm
from benchmarks.servers import EngineFlags, differences, redraft, vllm


def test_both_engines_get_the_same_flags() -> None:
    flags = EngineFlags(max_model_len=512, kv_cache_gib=0.5, step_tokens=128)
    ours, theirs = flags.for_redraft("model", 1), flags.for_vllm("model", 2, "float32")
    # What follows the -- goes to vLLM as it is.
    after = ours[ours.index("--") + 1 :]
    assert theirs[-len(after) :] == after
    assert "--kv-cache-gib 0.5" in " ".join(ours)
    assert f"--kv-cache-memory-bytes {2**29}" in " ".join(theirs)
    assert ("--step-tokens 128" in " ".join(ours)) and ("--max-num-batched-tokens 128" in " ".join(theirs))
    assert "--dtype float32" in " ".join(theirs)


def test_redraft_gets_more_of_its_own() -> None:
    arguments = EngineFlags().for_redraft("model", 1, ["--training"])
    assert arguments.index("--training") < arguments.index("--")


def test_vllm_runs_without_redrafts_plugins(tmp_path: Path) -> None:
    server = vllm([], 1, {"VLLM_LOGGING_LEVEL": "INFO"}, tmp_path)
    loaded = server._env["VLLM_PLUGINS"].split(",")
    assert [name for name in loaded if "redraft" in name] == ["redraft_bare_vllm"]
    (found,) = importlib.metadata.distributions(path=[server._env["PYTHONPATH"]])
    (plugin,) = found.entry_points.select(group="vllm.general_plugins")
    assert plugin.load() is bare_vllm.register
    assert server._env["VLLM_LOGGING_LEVEL"] == "INFO"


def test_a_server_is_shown_as_a_person_would_start_it() -> None:
    server = redraft(["serve", "--port", "1"], 1)
    assert server.command() == "redraft serve --port 1"
    assert server.url == "http://127.0.0.1:1"


def test_differences_name_both_sides() -> None:
    assert differences({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b: 2 / 3", "c: None / 4"]
