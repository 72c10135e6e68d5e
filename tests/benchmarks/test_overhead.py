import random
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.progress import Progress

from benchmarks.journal import Journal
from benchmarks.load import LoadError
from benchmarks.overhead import Overhead, Settings, Step, balanced, expect, measure, quick_settings
from benchmarks.overhead_report import OverheadReport


def keys(settings: Settings) -> list[str]:
    return [step.key for step in Overhead(settings, Mock(), Mock()).steps()]


def measured(key: str) -> dict[str, Any]:
    """What a step could have measured: redraft a tenth slower than vLLM."""
    kind, name = key.split("/")[0], key.split("/")[1]
    slower = 1.1 if "redraft" in key else 1.0
    if kind == "idle":
        return {"seconds": 10.0, "redraft": 0.1, "vllm": 0.1}
    if kind == "plain":
        cpu = {"front_cpu": 0.5 * slower, "tree_cpu": 10.0, "other_cpu": 0.01, "foreign_cpu": 0.02}
        load = {"seconds": 10 * slower, "requests": 32, "tokens": 2048, "prompt_tokens": 75.0}
        return {**load, **cpu, "first_token_ms": [100.0, 200.0 * slower, 300.0]}
    if kind == "samples":
        return {"seconds": {"one": 4.0, "strategy": 6.0, "n": 5.5}[name]}
    if kind == "prefix":
        engine = {"requests": 5, "prompt_tokens": 1500, "cached_tokens": 4 * 288}
        return {"prompt_tokens": 300, "engine": engine, "counters": {"queries": 1500.0, "hits": 1152.0}}
    stall = {"ms": 80.0, "cpu_ms": 75.0, "at": ["server/run.py:10 report"]}
    watch = {"loop": "uvloop.Loop", "late": [0.1, 1.0, 80.0], "stalls": 1, "own_stalls": 1, "worst": [stall]}
    watch["collections"] = {"count": 2, "longest_ms": 3.0}
    return {"health": [0.5, 1.0, 85.0], "lateness": [0.1, 0.2, 5.0], "watch": watch}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    settings = Settings(rounds=3)
    journal = Journal(tmp_path / "overhead.json", asdict(settings))
    for key in keys(settings):
        journal.entries[key] = measured(key)
    journal.facts = {
        "sessions": 1,
        "date": "2026-01-01",
        "command": "python -m benchmarks.overhead",
        "machine": {"processor": "a fast one"},
        "commands": {"redraft": "redraft serve", "vllm": "vllm serve"},
        "variables": {"VLLM_CPU_OMP_THREADS_BIND": "0-1"},
        "differences": [],
    }
    return journal


def test_no_two_measurements_share_a_key_and_the_order_is_the_seeds() -> None:
    first = keys(Settings(seed=1))
    assert len(first) == len(set(first))
    assert first == keys(Settings(seed=1))
    assert first != keys(Settings(seed=2))
    assert sorted(first) == sorted(keys(Settings(seed=2)))


def test_the_two_servers_take_turns_within_each_round() -> None:
    plain = [key for key in keys(Settings(rounds=4)) if key.startswith("plain/")]
    assert len(plain) == 4 * 3 * 2
    for one, other in zip(plain[::2], plain[1::2], strict=True):
        assert {one, other} == {one.replace("/vllm/", "/redraft/"), one.replace("/redraft/", "/vllm/")}


def test_a_smoke_test_measures_the_same_things() -> None:
    def kinds(settings: Settings) -> set[str]:
        return {key.rpartition("/")[0] for key in keys(settings)}

    assert kinds(quick_settings(1)) == kinds(Settings())


@pytest.mark.parametrize("rounds", [1, 5, 8])
def test_each_server_is_first_in_half_of_the_rounds(rounds: int) -> None:
    first = balanced(rounds, random.Random(0))
    assert len(first) == rounds
    assert abs(sum(first) * 2 - rounds) <= 1


def test_a_count_that_is_off_ends_the_measurement() -> None:
    expect(3, 3)
    with pytest.raises(LoadError, match="2 where 3"):
        expect(2, 3)


async def test_a_measurement_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, made, broken = tmp_path / "overhead.json", [], ["b"]

    async def take(key: str) -> str:
        made.append(key)
        if key in broken:
            raise LoadError("the server has gone")
        return key.upper()

    async def nothing(*_: object) -> None:
        return

    monkeypatch.setattr(Overhead, "steps", lambda _: (Step(key, partial(take, key)) for key in "abc"))
    monkeypatch.setattr(Overhead, "warm_up", nothing)
    monkeypatch.setattr("benchmarks.servers.settled", nothing)

    async def run() -> Journal:
        settings = quick_settings(1)
        journal = Journal.open(path, asdict(settings))
        await measure(journal, settings, Mock(), Mock(), Progress(disable=True))
        return journal

    with pytest.raises(LoadError):
        await run()
    broken.clear()
    journal = await run()
    assert made == ["a", "b", "b", "c"]
    assert journal.entries == {"a": "A", "b": "B", "c": "C"}
    assert journal.complete


def test_the_report_says_what_misses_its_aim(journal: Journal, tmp_path: Path) -> None:
    text = OverheadReport(journal).write(tmp_path).read_text()
    missed = text.partition("## What misses its aim")[2].partition("##")[0]
    assert "- 1 stream: throughput ratio: 0.91, the aim is ≥ 0.95." in missed
    assert "self_consistency of 5 / one" not in missed
    assert "longest stall of the loop's own doing, ms: 75, the aim is ≤ 50." in missed
    assert (tmp_path / "overhead.png").stat().st_size > 10_000


def test_the_report_shows_every_number_with_its_aim(journal: Journal, tmp_path: Path) -> None:
    text = OverheadReport(journal).write(tmp_path).read_text()
    assert "| 16 streams: throughput, tokens/s | 186 (186..186) | 205 (205..205) | 0.91 [0.91, 0.91] | ≥ 0.95 |" in text
    assert "| self_consistency of 5 | 6 (6..6) | 1.50 [1.50, 1.50] | ≤ 2 | met |" in text
    # 300 tokens and four times the 12 of the last block.
    assert "| 300 | 1500 | 1152 | 1,500 / 1,152 | 348 | 1.16 | ≤ 348 | met |" in text
    assert "`server/run.py:10 report`" in text
    assert "redraft has no remote engine" in text


def test_the_report_says_when_the_machine_was_not_quiet(journal: Journal, tmp_path: Path) -> None:
    assert "not quiet" not in OverheadReport(journal).write(tmp_path).read_text()
    for key, entry in journal.entries.items():
        if key.startswith("plain/"):
            entry["foreign_cpu"] = 5.0
    assert "not quiet" in OverheadReport(journal).write(tmp_path).read_text()


def test_only_a_smoke_test_is_marked_as_one(journal: Journal, tmp_path: Path) -> None:
    assert "smoke test" not in OverheadReport(journal).write(tmp_path).read_text()
    journal.settings["quick"] = True
    assert "smoke test" in OverheadReport(journal).write(tmp_path).read_text()
