"""TT-SI through the API: the default model, with a training process of its own."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.streams import record
from tests.servers import DEFAULT_MODEL, Server, running_server

QUESTION: Any = [{"role": "user", "content": "Will it rain in Oslo tomorrow?"}]
QUICK: dict[str, Any] = {"threshold": 1.0, "epochs": 2}
"""Every request is uncertain, and little is learnt of it."""


def tool(name: str, what: str) -> Any:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": what, "parameters": parameters}}


TOOLS = [tool("get_weather", "The weather in a city."), tool("get_time", "What time it is in a city.")]


@pytest.fixture(scope="module")
def training(server: Server) -> Iterator[Server]:
    """With the other server as its teacher."""
    flags = ["--kv-cache-gib", "0.3", "--dtype", "float32", "--training", "--adapter-slots", "2"]
    teacher = ["--teacher-url", f"{server.url}/v1", "--teacher-model", server.model]
    with running_server([*flags, *teacher], model=DEFAULT_MODEL) as running:
        yield running


def ask(server: Server, params: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changes = {"max_tokens": 60, "temperature": 0, "seed": 1, "tools": TOOLS, **changes}
    body = {"strategy": {"name": "ttsi", "params": params}}
    answer: dict[str, Any] = server.client.chat.completions.create(
        model=server.model, messages=QUESTION, extra_body=body, **changes
    ).model_dump()
    return answer


def kinds(answer: dict[str, Any]) -> list[str]:
    return [note["kind"] for note in answer["strategy"]["notes"]]


def notes_of(answer: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [note for note in answer["strategy"]["notes"] if note["kind"] == kind]


def worker() -> int:
    """The process id of the only training process."""
    found = subprocess.run(["pgrep", "-f", "trainer.worker"], capture_output=True, text=True, check=True)
    (pid,) = found.stdout.split()
    return int(pid)


def cpu_ticks(pid: int) -> int:
    """What a process has computed."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return int(user) + int(system)


def test_it_learns_before_it_answers(training: Server) -> None:
    answer = ask(training, QUICK)
    assert kinds(answer) == ["uncertainty", "pairs", "epoch", "epoch", "adapter"]
    (uncertainty,) = notes_of(answer, "uncertainty")
    assert set(uncertainty["shares"]) == {"get_weather", "get_time"}
    assert sum(uncertainty["shares"].values()) == pytest.approx(1)
    losses = [note["loss"] for note in notes_of(answer, "epoch")]
    assert losses[1] < losses[0]
    assert answer["choices"][0]["finish_reason"] in ("stop", "length", "tool_calls")


def test_a_certain_request_is_the_plain_one(training: Server) -> None:
    answer = ask(training, {"threshold": 0.0})
    assert kinds(answer) == ["uncertainty"]
    plain = training.client.chat.completions.create(
        model=training.model, messages=QUESTION, max_tokens=60, temperature=0, tools=TOOLS
    ).model_dump()
    assert answer["choices"][0]["message"]["content"] == plain["choices"][0]["message"]["content"]
    # No adapter of an earlier request is left in it.
    again = ask(training, QUICK)
    assert "adapter" in kinds(again)
    assert ask(training, {"threshold": 0.0})["choices"][0]["message"] == answer["choices"][0]["message"]


def test_progress_is_streamed(training: Server) -> None:
    body = {
        "model": training.model,
        "messages": QUESTION,
        "tools": TOOLS,
        "max_tokens": 40,
        "temperature": 0,
        "strategy": {"name": "ttsi", "params": QUICK},
    }
    stream = record(training, "/v1/chat/completions", body)
    notes = [line.data["strategy"]["note"]["kind"] for line in stream.of_event("note")]
    assert notes == ["uncertainty", "pairs", "epoch", "epoch", "adapter"]
    assert stream.of_event("note")[-1].at < stream.of_event("answer")[0].at


def test_pairs_in_the_prompt_and_by_a_teacher(training: Server) -> None:
    assert kinds(ask(training, QUICK | {"mode": "in_context"})) == ["uncertainty", "pairs"]
    taught = ask(training, QUICK | {"mode": "teacher"})
    assert kinds(taught)[-1] in ("adapter", "fallback")  # So small a teacher may fail at the shape.


def test_requests_without_tools(training: Server) -> None:
    answer = ask(training, QUICK | {"samples": 2}, tools=openai.omit, temperature=0.9)
    assert kinds(answer)[0] == "uncertainty"
    assert "extension" in notes_of(answer, "uncertainty")[0]["by"]


def test_a_worker_that_is_killed_harms_nobody(training: Server) -> None:
    async def both() -> tuple[dict[str, Any], dict[str, Any]]:
        asking = asyncio.to_thread(ask, training, QUICK | {"epochs": 20})
        plain = asyncio.to_thread(ask, training, {"threshold": 0.0})
        killing = asyncio.to_thread(kill_when_busy)
        answer, other, _ = await asyncio.gather(asking, plain, killing)
        return answer, other

    def kill_when_busy() -> None:
        pid = worker()
        before = cpu_ticks(pid)
        while cpu_ticks(pid) < before + 100:
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)

    answer, other = asyncio.run(both())
    assert kinds(answer)[-1] == "fallback"
    assert "ended with status -9" in notes_of(answer, "fallback")[0]["reason"]
    assert answer["choices"][0]["finish_reason"]
    assert kinds(other) == ["uncertainty"]
    assert kinds(ask(training, QUICK))[-1] == "adapter"


def test_what_a_server_without_training_says(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="--training"):
        ask(server, QUICK)
    assert kinds(ask(server, QUICK | {"mode": "in_context"})) == ["uncertainty", "pairs"]
