"""The training process, a real one, and what becomes of a job when something happens to it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from server.training import TRAININGS, WAITING, Trainer, TrainerCommand, TrainingFailed

pytestmark = pytest.mark.asyncio(loop_scope="module")
EXAMPLES = [{"token_ids": list(b"what is 2 + 2? 4!"), "learnt": 2}]
SETTINGS = {"rank": 4, "alpha": 8, "epochs": 3, "learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.03, "seed": 0}
LONG = SETTINGS | {"epochs": 20_000}


def command(model: Path, scratch: Path) -> TrainerCommand:
    return TrainerCommand(str(model), "float32", threads=1, memory_gib=0.25, scratch=scratch)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trainer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Trainer]:
    trainer = Trainer(command(tiny_model, tmp_path_factory.mktemp("scratch")), max_waiting=1, max_seconds=60)
    await trainer.start()
    yield trainer
    await trainer.close()


async def fitted(
    trainer: Trainer, folder: Path, settings: dict[str, Any] = SETTINGS, examples: Sequence[Any] = EXAMPLES
) -> list[tuple[int, float]]:
    return [epoch async for epoch in trainer.fit(examples, settings, folder)]


def process(trainer: Trainer) -> asyncio.subprocess.Process:
    assert trainer._process is not None
    return trainer._process


def counted(outcome: str) -> float:
    return float(TRAININGS.labels(outcome)._value.get())


async def test_epochs_and_then_an_adapter(trainer: Trainer, tmp_path: Path) -> None:
    before = counted("done")
    epochs = await fitted(trainer, tmp_path)
    assert counted("done") == before + 1
    assert [number for number, _ in epochs] == [1, 2, 3]
    assert epochs[2][1] < epochs[0][1]
    assert (tmp_path / "adapter_model.safetensors").stat().st_size > 1000


async def test_a_process_that_is_killed_fails_its_job_only(trainer: Trainer, tmp_path: Path) -> None:
    killed, before = process(trainer).pid, counted("failed")
    with pytest.raises(TrainingFailed, match="ended with status -9"):
        async for _ in trainer.fit(EXAMPLES, LONG, tmp_path / "a"):
            os.kill(killed, signal.SIGKILL)
    assert counted("failed") == before + 1
    assert len(await fitted(trainer, tmp_path / "b")) == 3
    assert process(trainer).pid != killed


async def test_what_is_left_makes_room_for_the_next(trainer: Trainer, tmp_path: Path) -> None:
    """In the same process: to start one takes longer than a step."""
    before = process(trainer).pid
    job = trainer.fit(EXAMPLES, LONG, tmp_path / "a")
    await anext(job)
    await job.aclose()
    assert len(await asyncio.wait_for(fitted(trainer, tmp_path / "b"), 30)) == 3
    assert process(trainer).pid == before
    assert not (tmp_path / "a").exists()


async def test_a_full_queue_fails_at_once(trainer: Trainer, tmp_path: Path) -> None:
    job = trainer.fit(EXAMPLES, LONG, tmp_path / "a")
    await anext(job)
    waiting, refused, left = asyncio.ensure_future(fitted(trainer, tmp_path / "b")), counted("refused"), counted("left")
    await asyncio.sleep(0)
    assert WAITING._value.get() == 1
    with pytest.raises(TrainingFailed, match="1 trainings wait already"):
        await fitted(trainer, tmp_path / "c")
    await job.aclose()
    assert len(await waiting) == 3
    assert (counted("refused"), counted("left")) == (refused + 1, left + 1)


async def test_without_a_queue_one_trains(trainer: Trainer, tmp_path: Path) -> None:
    """And another beside it fails."""
    trainer._max_waiting = 0
    try:
        assert len(await fitted(trainer, tmp_path / "a")) == 3
        job = trainer.fit(EXAMPLES, LONG, tmp_path / "b")
        await anext(job)
        with pytest.raises(TrainingFailed, match="0 trainings wait already"):
            await fitted(trainer, tmp_path / "c")
        await job.aclose()
    finally:
        trainer._max_waiting = 1


async def test_one_that_leaves_while_it_starts_leaves_the_process(trainer: Trainer, tmp_path: Path) -> None:
    fresh = Trainer(trainer._command, max_waiting=1, max_seconds=60)
    job = asyncio.ensure_future(fitted(fresh, tmp_path / "a"))
    while fresh._process is None:
        await asyncio.sleep(0.01)
    started = process(fresh).pid
    job.cancel()
    assert len(await fitted(fresh, tmp_path / "b")) == 3
    assert process(fresh).pid == started
    await fresh.close()


async def test_one_that_waits_may_leave(trainer: Trainer, tmp_path: Path) -> None:
    job = trainer.fit(EXAMPLES, LONG, tmp_path / "a")
    await anext(job)
    waiting = asyncio.ensure_future(fitted(trainer, tmp_path / "b"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await job.aclose()
    assert len(await fitted(trainer, tmp_path / "c")) == 3


async def test_a_job_that_takes_too_long(trainer: Trainer, tmp_path: Path) -> None:
    hasty = Trainer(trainer._command, max_waiting=1, max_seconds=2)
    with pytest.raises(TrainingFailed, match="longer than 2 s"):
        await fitted(hasty, tmp_path / "a", LONG)
    await hasty.close()


SLOW_WORKER = """
import json, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if "id" in job:
        for answer in ({"begun": True}, {"epoch": 1, "loss": 1.0}, {"done": True}):
            time.sleep(job["settings"]["step"])
            print(json.dumps({"id": job["id"], **answer}), flush=True)
"""


@dataclass(frozen=True, slots=True)
class SlowCommand(TrainerCommand):
    """Of a worker each of whose steps takes what the job says."""

    def arguments(self) -> Sequence[str]:
        return [sys.executable, "-c", SLOW_WORKER]


@pytest.mark.parametrize(("step", "restarted"), [(0.5, False), (60.0, True)])
async def test_a_step_for_who_has_left_is_no_part_of_anothers_time(
    tmp_path: Path, step: float, restarted: bool
) -> None:
    """Not even one that has no end."""
    slow = Trainer(SlowCommand("", "", 1, 1.0, tmp_path), max_waiting=1, max_seconds=2)
    await slow.start()
    first = process(slow).pid
    left = asyncio.ensure_future(fitted(slow, tmp_path, {"step": step}))
    await asyncio.sleep(0.2)
    left.cancel()
    assert await fitted(slow, tmp_path, {"step": 0.5}) == [(1, 1.0)]
    assert (process(slow).pid != first) == restarted
    await slow.close()


async def test_a_job_that_takes_too_much_memory(trainer: Trainer, tmp_path: Path) -> None:
    """Fails, and the process lives on."""
    before = process(trainer).pid
    huge = [{"token_ids": [1] * 20_000, "learnt": 19_000}]
    with pytest.raises(TrainingFailed, match=r"(?i)memory"):
        await fitted(trainer, tmp_path / "a", examples=huge)
    assert len(await fitted(trainer, tmp_path / "b")) == 3
    assert process(trainer).pid == before


async def test_a_loss_that_is_not_finite(trainer: Trainer, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"not finite|loss of step"):
        await fitted(trainer, tmp_path / "a", SETTINGS | {"learning_rate": 1e30})
    assert len(await fitted(trainer, tmp_path / "b")) == 3


async def test_weights_that_are_not_there(trainer: Trainer, tmp_path: Path) -> None:
    lost = Trainer(replace(trainer._command, model=str(tmp_path / "none")), max_waiting=1, max_seconds=9)
    await lost.start()  # A server starts all the same.
    with pytest.raises(TrainingFailed, match="ended with status 1"):
        await fitted(lost, tmp_path / "a")


async def test_the_process_ends_with_its_input(tiny_model: Path, tmp_path: Path) -> None:
    """So none is left when a server is killed, nor are the adapters."""
    (tmp_path / "adapter").mkdir()
    child = await asyncio.create_subprocess_exec(
        *command(tiny_model, tmp_path).arguments(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    assert await child.stdout.readline() == b'{"ready": true}\n'
    child.stdin.close()
    assert await asyncio.wait_for(child.wait(), 10) == 0
    assert not tmp_path.exists()
