"""Plain requests, sent by `vllm bench serve`."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import CHAT
from benchmarks.loading.summary import BenchError

ERROR_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked.

    Attributes:
        url: of the server, without a path.
        model: by the name that it is served under.
        tokenizer: its folder.
    """

    url: str
    model: str
    tokenizer: str


def command(target: Target, prompts: Path, count: int, tokens: int, result: Path, load: Sequence[str]) -> list[str]:
    """Its command line. `load` says when requests come; prompts are sent in the order of their file."""
    return [
        *(sys.executable, "-m", "benchmarks.vllm_bench", "--backend", "openai-chat", "--base-url", target.url),
        *("--endpoint", CHAT, "--model", target.model, "--tokenizer", target.tokenizer),
        *("--dataset-name", "custom", "--dataset-path", str(prompts), "--custom-output-len", str(tokens)),
        *("--skip-chat-template", "--disable-shuffle", "--num-prompts", str(count), "--ignore-eos"),
        *("--temperature", "0", "--percentile-metrics", "ttft,tpot,itl,e2el", "--disable-tqdm"),
        *("--save-result", "--save-detailed", "--result-dir", str(result.parent), "--result-filename", result.name),
        *load,
    ]


def measured(
    target: Target, prompts: Sequence[str], tokens: int, load: Sequence[str], limit: float, seed: int
) -> dict[str, Any]:
    """The result of one load, as it writes it, but for the texts. Raises BenchError.

    Args:
        target: what is asked.
        prompts: one a request.
        tokens: of each answer.
        load: its arguments for when requests come.
        limit: seconds after which it is ended.
        seed: of its arrivals.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, result = Path(folder, "prompts.jsonl"), Path(folder, "result.json")
        file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
        arguments = command(target, file, len(prompts), tokens, result, [*load, "--seed", str(seed)])
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"vllm bench serve was not done after {limit:.0f} s") from error
        if done.returncode or not result.exists():
            raise BenchError(f"vllm bench serve failed: {(done.stderr or done.stdout).strip()[-ERROR_CHARACTERS:]}")
        read: dict[str, Any] = json.loads(result.read_text())
    return {name: value for name, value in read.items() if name not in ("generated_texts", "itls")}
