"""What is asked, what is kept of it, and what goes on after a cut."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import asking
from benchmarks.compare.asking import ask_all
from benchmarks.compare.errors import CompareError
from benchmarks.compare.folder import Folder, key_of
from benchmarks.compare.plan import plan
from benchmarks.compare.settings import Settings
from benchmarks.load import Reply
from benchmarks.suites import suite
from tests.benchmarks.compare.gateway import Gateway, Said

Make = Callable[..., Settings]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "run")


async def run(settings: Settings, folder: Folder) -> list[dict[str, Any]]:
    """Asks what is missing; all lines of answers."""
    items = suite(settings.suite, settings.count, settings.seed).items
    with folder.taken(settings, items):
        there = folder.there()
        await ask_all(settings, [block.without(there) for block in plan(settings, items)], folder, settings.url)
        return folder.answers.read()


async def test_every_answer_is_kept(make: Make, gateway: Gateway, folder: Folder) -> None:
    gateway.says = lambda body: Said("It is 1.", 7, thoughts=(("draft", "Two."), ("critique", "No.")))
    settings = make(answers=2)
    lines = await run(settings, folder)
    wanted = [
        (block.arm.label, item.id, i)
        for block in plan(settings, suite(settings.suite, None, 0).items)
        for item, i in block.asked
    ]
    assert {key_of(line) for line in lines} == set(wanted)
    assert len(lines) == len(wanted) == len(gateway.asked) == 24
    assert gateway.most == 3, "as many as may be under way"
    line = lines[0]
    assert (line["error"], line["text"], line["first_attempt"], line["finish_reason"]) == (
        None,
        "It is 1.",
        "Two.",
        "stop",
    )
    assert line["tokens"] == {"prompt": 20, "cached": 1, "completion": 7}
    assert 0 < line["first_thought"] <= line["first_answer"] <= line["seconds"]
    assert {line["seed"] for line in lines} == {body["seed"] for body in gateway.asked}


async def test_blocks_run_alone_and_in_the_planned_order(make: Make, gateway: Gateway, folder: Folder) -> None:
    settings = make()
    lines = await run(settings, folder)
    blocks = folder.blocks.read()
    order = [block.arm.label for block in plan(settings, suite(settings.suite, None, 0).items)]
    assert [block["arm"] for block in blocks] == order
    assert [line["arm"] for line in lines] == [label for label in order for _ in range(2)]
    assert [bool(body.get("strategy")) for body in gateway.asked] == [line["arm"] == "vote" for line in lines]
    assert all(block["engine"] == {"prompt": 40, "cached": 2, "completion": 20} for block in blocks)
    assert all((block["requests"], block["busy"]) == (2, 0) and block["seconds"] > 0 for block in blocks)


async def test_an_endpoint_without_counters(make: Make, gateway: Gateway, folder: Folder) -> None:
    gateway.counts = False
    await run(make(), folder)
    assert [block["engine"] for block in folder.blocks.read()] == [None] * 6


async def test_a_run_goes_on_where_it_was_cut(make: Make, gateway: Gateway, folder: Folder) -> None:
    settings = make(answers=2)
    task = asyncio.create_task(run(settings, folder))
    while len(folder.answers.read()) < 5:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    before = folder.answers.read()
    cut = {line["block"] for line in before} - {block["block"] for block in folder.blocks.read()}
    with folder.answers.path.open("ab") as file:
        file.write(b'{"arm": "pla')  # What a power cut leaves of a line.
    seen = -1
    while seen != (seen := len(gateway.asked)):  # What was on its way when the run was cut may still come.
        await asyncio.sleep(0.2)
    gateway.asked.clear()
    after = await run(settings, folder)
    assert after[: len(before)] == before
    assert len(after) == 24
    assert len({key_of(line) for line in after}) == 24
    assert len(gateway.asked) == 24 - len(before)
    assert cut
    assert not cut & {block["block"] for block in folder.blocks.read()}, "what ran in part was not counted as a whole"
    gateway.asked.clear()
    assert await run(settings, folder) == after
    assert gateway.asked == []


async def test_other_settings_are_refused(make: Make, folder: Folder) -> None:
    await run(make(count=1), folder)
    with pytest.raises(CompareError, match=r"other settings: temperature is 0\.7 there and 0\.5 here"):
        await run(make(count=1, temperature=0.5), folder)
    (path,) = [Path(make().suite.removeprefix("file:"))]
    path.write_text(json.dumps({"question": "another?", "answer": "1"}) + "\n")
    with pytest.raises(CompareError, match="items is"):
        await run(make(count=1), folder)


async def test_two_runs_do_not_share_a_folder(make: Make, folder: Folder) -> None:
    settings = make()
    with folder.taken(settings, []), pytest.raises(CompareError, match="another run"), folder.taken(settings, []):
        pass


async def test_a_busy_server_is_asked_again(make: Make, gateway: Gateway, folder: Folder) -> None:
    gateway.busy = 4
    lines = await run(make(), folder)
    assert all(line["error"] is None for line in lines)
    assert (len(lines), len(gateway.asked)) == (12, 12)
    assert sum(line["busy"] for line in lines) == 4
    assert sum(block["busy"] for block in folder.blocks.read()) == 4


@pytest.mark.parametrize(("said", "waits"), [("7", [7.0, 7.0]), (None, [1.0, 2.0]), ("soon", [1.0, 2.0])])
async def test_how_long_a_busy_server_is_waited_for(
    make: Make, gateway: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch, said: str | None, waits: list[float]
) -> None:
    waited, sleep = list[float](), asyncio.sleep

    async def counted(seconds: float) -> None:
        waited.extend([seconds] if seconds >= 1 else [])
        await sleep(0)

    monkeypatch.setattr("benchmarks.compare.asking.asyncio.sleep", counted)
    gateway.busy, gateway.retry_after = 2, said
    await run(make(count=1, at_once=1), folder)
    assert waited == waits


async def test_patience_ends(make: Make, gateway: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE_SECONDS", 0.3)
    gateway.busy = 10**6
    (line, _) = await run(make(count=1, at_once=1), folder)
    assert line["error"].startswith("429")
    assert line["busy"] == 3


async def test_failures_are_counted_and_asked_again(make: Make, gateway: Gateway, folder: Folder) -> None:
    gateway.says = lambda body: Said(status=400) if body.get("strategy") else Said()
    lines = await run(make(), folder)
    failed = [line for line in lines if line["error"] is not None]
    assert [line["arm"] for line in failed] == ["vote"] * 6
    assert failed[0]["error"] == '400: {"error":{"message":"refused"}}'
    gateway.says = lambda body: Said()
    gateway.asked.clear()
    lines = await run(make(), folder)
    assert len(gateway.asked) == 6
    assert len(folder.there()) == 12


async def test_half_an_answer_is_a_failure(make: Make, gateway: Gateway, folder: Folder) -> None:
    gateway.says = lambda body: Said(finish_reason=None)
    lines = await run(make(count=1), folder)
    assert {line["error"] for line in lines} == {"the stream ended without a finish reason"}


async def test_nobody_there(make: Make, folder: Folder) -> None:
    with pytest.raises(CompareError, match="does not answer"):
        await run(make(url="http://127.0.0.1:1"), folder)
    assert folder.answers.read() == []


async def test_a_server_that_is_gone_ends_the_run(
    make: Make, gateway: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> Any:
        return Reply(0, 0.1, None, "ConnectError()", {}, {})

    monkeypatch.setattr(asking, "ask", broken)
    with pytest.raises(CompareError, match="answers no longer: ConnectError"):
        await run(make(answers=8), folder)
    assert len(folder.answers.read()) < 20
    assert folder.there() == set()
