import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loading import vllm_bench
from benchmarks.loading.summary import BenchError
from benchmarks.loading.vllm_bench import Target, command, measured

TARGET = Target("http://127.0.0.1:1", "smollm2-135m", "folder")


def runs(monkeypatch: pytest.MonkeyPatch, code: str) -> list[Any]:
    """Has a program of this test run instead; what it was started for."""
    asked: list[Any] = []

    def instead(*arguments: Any) -> list[str]:
        asked.append((arguments, arguments[1].read_text()))
        return [sys.executable, "-c", code, str(arguments[4])]

    monkeypatch.setattr(vllm_bench, "command", instead)
    return asked


def take(limit: float = 60.0) -> dict[str, Any]:
    return measured(TARGET, ["one two", "three"], 8, ["--request-rate", "2"], limit, 7)


def test_its_command_says_what_to_ask_and_when() -> None:
    arguments = command(TARGET, Path("/p.jsonl"), 5, 8, Path("/r/result.json"), ["--max-concurrency", "3"])
    text = " ".join(arguments)
    assert "--base-url http://127.0.0.1:1 --endpoint /v1/chat/completions --model smollm2-135m" in text
    assert "--num-prompts 5" in text
    assert "--custom-output-len 8" in text
    assert "--save-detailed --result-dir /r --result-filename result.json --max-concurrency 3" in text


def test_its_result_is_read_without_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    written = json.dumps({"completed": 2, "generated_texts": ["long"], "itls": [[0.1]]})
    asked = runs(monkeypatch, f"import sys; open(sys.argv[1], 'w').write({written!r})")
    assert take() == {"completed": 2}
    ((arguments, prompts),) = asked
    assert [json.loads(line) for line in prompts.splitlines()] == [{"prompt": "one two"}, {"prompt": "three"}]
    assert arguments[5] == ["--request-rate", "2", "--seed", "7"]


@pytest.mark.parametrize("code", ["raise SystemExit('no such tokenizer')", "print('no such tokenizer')"])
def test_its_failure_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    runs(monkeypatch, code)
    with pytest.raises(BenchError, match="no such tokenizer"):
        take()


def test_it_does_not_run_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    runs(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(BenchError, match="not done after 0 s"):
        take(limit=0.2)
