"""The demo with a stand-in for the server command: it ends well, it explains failures, and it leaves nothing behind."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from clients import demo
from clients.events import AnswerDelta, Done, Thought
from clients.process import ServerError, ServerProcess
from strategies.base import Strategy, Task
from strategies.engine import Sampling
from strategies.registry import load_strategies
from tests.strategies.scripted import ScriptedEngine

FAKE = Path(__file__).parent / "fake_server.py"


@pytest.fixture(autouse=True)
def logs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def run(mode: str, start_timeout: float = 30.0) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), width=120)
    went_well = demo.run([sys.executable, str(FAKE), mode, "serve"], console, "6*7?", 16, start_timeout)
    assert isinstance(console.file, io.StringIO)
    return went_well, console.file.getvalue()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_asks_in_every_available_way(logs_in: Path) -> None:
    went_well, output = run("well")
    assert went_well, output
    assert "draft 0  Six [b]by seven" in output
    assert "kept branch 0" in output
    table = output[output.index("One question") :].splitlines()
    rows = [re.split(r"\s{2,}", line.strip()) for line in table if "It is 42." in line]
    assert [(row[0], row[1], row[2], row[3], row[5]) for row in rows] == [
        ("plain", "1", "30", "20", "It is 42."),
        ("self_refine", "3", "30", "20", "It is 42."),
        ("best_of_n", "3", "30", "20", "It is 42."),
        ("srgen", "3", "30", "20", "It is 42."),
    ]
    assert list(logs_in.iterdir()) == []


@pytest.mark.parametrize("plugin", [one for one in load_strategies().values() if issubclass(one, Strategy)])
async def test_every_strategy_takes_what_the_demo_asks(plugin: type[Strategy]) -> None:
    """Of a server without flags."""
    engine = ScriptedEngine([])
    messages = [{"role": "user", "content": demo.QUESTION}]
    task = Task(messages, await engine.render(messages), Sampling(max_tokens=128, temperature=0.3, seed=0))
    params = plugin.Parameters.model_validate(demo.PARAMS.get(plugin.name, {}))
    plugin(params).check(task, engine)


def test_says_why_the_server_died() -> None:
    went_well, output = run("dead")
    assert not went_well
    assert "exit status 1" in output
    assert "no space left for [the] model" in output
    assert "What to do" in output


def test_gives_up_on_a_server_that_does_not_answer() -> None:
    went_well, output = run("deaf", start_timeout=2.0)
    assert not went_well
    assert "not ready after 2 s" in output
    assert "starting the server  Loading weights" in output
    found = re.search(r"pid (\d+)", output)
    assert found
    assert not alive(int(found[1]))


def test_one_failing_strategy_fails_the_demo() -> None:
    went_well, output = run("failing")
    assert not went_well
    assert "failing as told" in output
    assert "no answer from best_of_n" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_too(number: signal.Signals, logs_in: Path) -> None:
    script = f"import sys\nfrom clients import demo\ndemo.SERVE = [sys.executable, {str(FAKE)!r}, 'deaf', 'serve']\n"
    command = [sys.executable, "-c", script + "import typer\ntyper.run(demo.main)"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert running.stdout
    deadline = time.monotonic() + 30
    while not (logs := [log for log in logs_in.glob("*.log") if "Loading" in log.read_text()]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found = re.search(r"pid (\d+)", logs[0].read_text())
    assert found
    running.send_signal(number)
    running.communicate(timeout=30)
    assert running.returncode != 0
    assert not alive(int(found[1]))
    assert list(logs_in.iterdir()) == []


def test_a_server_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.process.STOP_SECONDS", 0.5)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    with ServerProcess([sys.executable, "-c", stubborn]) as server:
        while not server.log_tail():
            time.sleep(0.05)
        server.check()
    with pytest.raises(AssertionError):
        server.check()


def test_log_tail_sees_progress_bars_as_lines() -> None:
    noisy = r"print('a\n\n10%\r20%\r\x1b[1m30%\x1b[0m\r')"
    server = ServerProcess([sys.executable, "-c", noisy])
    with pytest.raises(ServerError, match="exit status 0"), server:
        server.wait_healthy("http://127.0.0.1:9/health", 10.0, lambda *_: None)
    assert server.log_tail(3) == ["10%", "20%", "30%"]


def test_transcript_limits_each_thought_and_keeps_branches_apart() -> None:
    console = Console(file=io.StringIO(), width=60)
    transcript = demo.Transcript(console)
    for word in range(200):
        transcript.add(Thought(f"left{word} ", 0, "sample"))
        transcript.add(Thought(f"right{word}\n", 1, "sample"))
    transcript.add(AnswerDelta("done"))
    transcript.add(Done("stop", None, None))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[-1] == "done"
    for branch, mine, other in ((0, "left", "right"), (1, "right", "left")):
        shown = [line for line in lines if line.strip().startswith(f"sample {branch}")]
        assert len(shown) == demo.Transcript.lines_per_thought + 1
        assert "…" in shown[-1]
        assert all(mine in line and other not in line for line in shown[:-1])
