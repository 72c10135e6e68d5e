from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.progress import Progress
from typer.testing import CliRunner

from benchmarks.journal import Journal
from benchmarks.loading import __main__ as main
from benchmarks.loading import measuring
from benchmarks.loading.measuring import PLAIN, Load, Settings, cells, is_loopback, measure
from benchmarks.loading.summary import BenchError, Summary
from benchmarks.loading.vllm_bench import Target

SETTINGS = Settings(requests=3, loads=(Load("rate", 50.0), Load("users", 2)), strategies=("self_consistency",))
TARGET = Target("http://127.0.0.1:1", "m", "folder")
SUMMARY = Summary(3, [], 1.0, 24, [0.5, 0.6, 0.7], [], [0.1, 0.2, 0.3])


def test_every_load_is_put_on_everything_in_an_order_of_the_seed() -> None:
    keys = [key for key, _, _ in cells(Settings(seed=1))]
    assert len(set(keys)) == len(keys) == len(Settings().loads) * (1 + len(Settings().strategies))
    assert keys == [key for key, _, _ in cells(Settings(seed=1))]
    assert keys != [key for key, _, _ in cells(Settings(seed=2))]


def test_what_is_kept_is_not_measured_again_and_failures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[str, str]] = []

    def take(settings: Settings, target: Target, strategy: str, load: Load) -> Summary:
        taken.append((strategy, load.name))
        if strategy == PLAIN:
            raise BenchError("vllm bench serve failed")
        if load.kind == "users":
            raise TimeoutError
        return SUMMARY

    monkeypatch.setattr(measuring, "measured_one", take)
    journal = Journal(tmp_path / "loading.json", {})
    journal.entries["plain/2 at a time"] = {"error": "earlier"}
    measure(journal, SETTINGS, TARGET, Progress(disable=True))
    assert sorted(taken) == [
        ("plain", "50 a second"),
        ("self_consistency", "2 at a time"),
        ("self_consistency", "50 a second"),
    ]
    assert journal.entries["plain/50 a second"] == {"error": "vllm bench serve failed"}
    assert journal.entries["self_consistency/2 at a time"] == {"error": "not done after 900 s"}
    assert Summary(**journal.entries["self_consistency/50 a second"]) == SUMMARY
    assert journal.complete


def test_plain_requests_go_through_vllms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def bench(target: Target, prompts: Any, tokens: int, load: Any, limit: float, seed: int) -> dict[str, Any]:
        asked.append((len(prompts), len(set(prompts)), tokens, load))
        return {
            **{"request_rate": "inf", "completed": 1, "failed": 0, "total_output_tokens": 8, "duration": 2.0},
            **{"errors": [""], "latencies": [1.0], "ttfts": [0.5], "queue_times": [0.0]},
        }

    monkeypatch.setattr(measuring, "measured", bench)
    assert measuring.measured_one(SETTINGS, TARGET, PLAIN, Load("users", 2)).latency == [1.0]
    assert asked == [(3, 3, 32, ["--max-concurrency", "2"])]


@pytest.mark.parametrize("load", SETTINGS.loads)
def test_strategies_are_asked_by_us(load: Load) -> None:
    found = measuring.measured_one(SETTINGS, TARGET, "self_consistency", load)
    # Nothing listens there.
    assert (found.requests, len(found.errors)) == (3, 3)


def test_a_strategy_is_an_alias_of_the_model() -> None:
    body = measuring.asking(TARGET, "self_refine", "hello", SETTINGS)
    assert (body["model"], body["stream"], body["max_tokens"]) == ("m@self_refine", True, 32)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost", True),
        ("http://[::1]:1/v1", True),
        ("http://10.0.0.1:8000", False),
        ("https://localhost", False),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost@example.com", False),
        ("127.0.0.1", False),
    ],
)
def test_only_this_machine_is_put_under_load(url: str, here: bool) -> None:
    assert is_loopback(url) is here


@pytest.mark.parametrize(
    "arguments",
    [["--url", "http://example.com"], ["--rate", "0"], ["--users", "-1"], ["--requests", "99999"], ["--report"]],
)
def test_bad_input_is_told_in_one_line(arguments: list[str], tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main.main)
    done = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path)])
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_a_smoke_test_is_small() -> None:
    settings = main.quick(Settings())
    assert settings.quick
    assert settings == replace(settings, requests=3)
