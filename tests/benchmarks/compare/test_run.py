"""From settings to a report, over a real socket and with a real suite."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import cli
from benchmarks.compare.run import compare
from benchmarks.compare.settings import Settings
from tests.benchmarks.compare.gateway import Gateway, Said

Make = Callable[..., Settings]


def answer(body: Mapping[str, Any]) -> Said:
    """Plain answers are right to even questions, refined ones to all."""
    number = int(body["messages"][0]["content"].partition("?")[0])
    if "strategy" not in body:
        return Said(f"The answer is {number - number % 2}.", 10)
    thoughts = (("draft", "The answer is 0."), ("critique", "Hm."))
    return Said(f"The answer is {number}.", 30, thoughts=thoughts)


def numbers(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each arm in the report."""
    found = json.loads((folder / "report.json").read_text())
    return {arm["label"]: arm for arm in found["result"]["arms"]}


def test_a_comparison(make: Make, gateway: Gateway, tmp_path: Path) -> None:
    gateway.says = answer
    settings = make(arms=[{"label": "plain", "answers": 2}, {"label": "refine", "strategy": "self_refine"}])
    report = compare(tmp_path / "run", settings, "the command", Console(quiet=True))
    assert report == tmp_path / "run" / "report.html"
    assert "the command" in report.read_text()
    arms = numbers(tmp_path / "run")
    assert arms["plain"]["metrics"]["avg@2"]["value"] == 0.5
    assert arms["refine"]["metrics"]["avg@1"]["value"] == 1
    refined = arms["refine"]["refined"]
    assert (refined["before"], refined["after"], refined["confidence_level"], refined["critique_score"]) == (
        1 / 6,
        1,
        1,
        1,
    )
    assert arms["refine"]["beside"]["difference"]["value"] == 0.5
    assert (arms["refine"]["beside"]["samples"], arms["refine"]["beside"]["reach"]) == (3, "more")
    for arm, tokens in (("plain", 120), ("refine", 180)):
        counted = arms[arm]["counted"]
        assert counted["told"]["completion"] == counted["engine"]["completion"] == tokens

    gateway.asked.clear()
    compare(tmp_path / "run", settings, "another command", Console(quiet=True))
    assert gateway.asked == [], "all of it is there"
    assert "another command" not in report.read_text(), "the report shows what asked"


def test_an_endpoint_that_tells_too_little_is_found_out(make: Make, gateway: Gateway, tmp_path: Path) -> None:
    gateway.says, gateway.hidden = answer, 15
    compare(tmp_path / "run", make(arms=[{"label": "plain"}]), "", Console(quiet=True))
    plain = numbers(tmp_path / "run")["plain"]
    assert plain["point"]["tokens"] == 25
    assert (plain["told"]["completion"], plain["counted"]["engine"]["completion"]) == (10, 150)
    assert "The endpoint told 60 tokens where the engine counted 150." in (tmp_path / "run" / "report.html").read_text()


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def test_the_command(gateway: Gateway, questions: str, tmp_path: Path) -> None:
    gateway.says = answer
    arms = ["--arm", "plain=", "--arm", 'refine=self_refine:{"params": {"rounds": 1}}']
    asked = ["--suite", questions, "--count", 2, "--url", f"{gateway.url}/v1", "--model", "m", *arms]
    assert "report:" in run("compare", tmp_path / "run", *asked, "--temperature", 0.5)
    assert {body["temperature"] for body in gateway.asked} == {0.5}
    assert [body["strategy"] for body in gateway.asked if "strategy" in body] == [
        {"name": "self_refine", "params": {"rounds": 1}}
    ] * 2
    assert "temperature is 0.5 there and 0.6 here" in run(
        "compare", tmp_path / "run", *asked, "--temperature", 0.6, code=1
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--suite", "gsm9k", "--url", "http://127.0.0.1:1", "--model", "m", "--arm", "a="), "there is no suite gsm9k"),
        (("--suite", "gsm8k", "--arm", "a="), "give the url"),
        (("--suite", "gsm8k", "--url", "u", "--model", "m"), "arms: Field required"),
        (("--arm", "a"), "LABEL=STRATEGY"),
        (("--config", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    assert told in run("compare", tmp_path / "run", *arguments, code=1)
