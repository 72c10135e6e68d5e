"""The terminal chat, driven by lines of input."""

import io
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from clients import AnswerDelta, Done, Redraft, Thought, chat
from clients.view import TurnView, printable

app = typer.Typer()
app.command()(chat.main)


def talk(url: str, *lines: str, options: tuple[str, ...] = ()) -> str:
    result = CliRunner().invoke(app, ["--url", url, *options], input="\n".join(lines) + "\n")
    assert result.exit_code == 0, result.output
    return result.output


def test_shows_thoughts_answer_and_footer(fake_url: str) -> None:
    output = talk(fake_url, "6*7?", "/quit", options=("--strategy", "self_refine"))
    assert "Six [b]by seven" in output
    assert "critique 0" in output
    assert "It is 42." in output
    for part in ("self_refine", "rounds: 1", "calls: 3", "30 tokens in", "20 out (15 hidden)"):
        assert part in " ".join(output.split())


def test_remembers_the_conversation_and_switches(fake_url: str, requests: list[dict[str, Any]]) -> None:
    output = talk(fake_url, "one", "/strategy best_of_n", "two", "/strategy none", "three", "/strategy", "/what")
    assert [len(request["messages"]) for request in requests] == [1, 3, 5]
    assert [request.get("strategy") for request in requests] == [None, {"name": "best_of_n"}, None]
    assert "what ttsi does" in output
    assert "/quit leaves" in output


def test_refuses_an_unavailable_strategy(fake_url: str) -> None:
    assert "not available: ttsi; there is best_of_n, self_refine, srgen" in talk(fake_url, "/strategy ttsi+srgen")


def test_a_failed_turn_is_forgotten(fake_url: str, requests: list[dict[str, Any]]) -> None:
    output = talk(fake_url, "break", "again", options=("--strategy", "best_of_n"))
    assert "the engine died" in output
    assert [len(request["messages"]) for request in requests] == [1, 1]


def test_ctrl_c_stops_the_answer_only(fake_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    console = Console(file=io.StringIO())
    talking = chat.Chat(Redraft(fake_url), console, "best_of_n")
    monkeypatch.setattr(TurnView, "add", interrupted)
    talking.say("sleep")
    assert talking.history == []
    assert isinstance(console.file, io.StringIO)
    assert "stopped" in console.file.getvalue()


def test_no_server() -> None:
    result = CliRunner().invoke(app, ["--url", "http://127.0.0.1:9/v1", "--strategy", "best_of_n"])
    assert result.exit_code == 1
    assert "Connection error" in result.output


def test_view_keeps_to_the_screen_and_shows_the_end() -> None:
    view = TurnView()
    view.add(Thought("\n".join(f"thought {number}" for number in range(50)), 0, "draft"))
    view.add(AnswerDelta("\n".join(f"line {number}" for number in range(50))))
    view.add(Done("length", None, None))
    console = Console(file=io.StringIO(), width=80, height=10)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().splitlines()
    assert len(shown) == 9
    assert "line 49" in shown[-2]
    assert "cut at the token limit" in shown[-1]
    console.print(view.whole())
    assert "thought 0" in console.file.getvalue()


def test_the_model_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\nc\td\x9b") == "a[2Jb\nc\td"
