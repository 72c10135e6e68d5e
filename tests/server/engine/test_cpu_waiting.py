"""How long vLLM's processes spin on a CPU."""

import inspect
import os
import time
from importlib.metadata import entry_points
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.distributed.device_communicators import shm_broadcast

from server.engine.cpu_waiting import RECHECK_MS, SPIN_SECONDS, patch, register


@pytest.fixture
def queue() -> SimpleNamespace:
    class SpinCondition:
        def __init__(self, is_reader: bool, context: Any = None, busy_loop_s: float = 1) -> None:
            self.busy_loop_s = busy_loop_s

    return SimpleNamespace(SpinCondition=SpinCondition, SHM_READER_RECHECK_INTERVAL_MS=5000)


def test_readers_spin_for_a_moment_only(queue: SimpleNamespace) -> None:
    for _ in range(2):
        patch(queue)
        assert queue.SpinCondition(True).busy_loop_s == SPIN_SECONDS
        assert queue.SpinCondition(True, busy_loop_s=3).busy_loop_s == 3
        assert queue.SHM_READER_RECHECK_INTERVAL_MS == RECHECK_MS


@pytest.mark.parametrize("name", ["SpinCondition", "SHM_READER_RECHECK_INTERVAL_MS"])
def test_another_vllm_is_refused(queue: SimpleNamespace, name: str) -> None:
    delattr(queue, name)
    with pytest.raises(RuntimeError, match="isn't as expected"):
        patch(queue)


def test_on_a_gpu_nothing_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.platforms.current_platform", SimpleNamespace(is_cpu=lambda: False))
    monkeypatch.setattr("server.engine.cpu_waiting.patch", pytest.fail)
    register()


def test_vllm_finds_the_plugin() -> None:
    (plugin,) = entry_points(group="vllm.general_plugins", name="redraft_cpu_waiting")
    assert plugin.load() is register


def read(handle: Any, results: Connection) -> None:
    """In another process: waits for two messages, 0.5 s apart, and tells what that cost."""
    patch(shm_broadcast)
    queue = shm_broadcast.MessageQueue.create_from_handle(handle, 0)
    results.send("ready")
    queue.wait_until_ready()  # type: ignore[no-untyped-call]
    first = queue.dequeue(timeout=10)
    before = os.times()
    second = queue.dequeue(timeout=10)
    after = os.times()
    results.send((first, second, after.user + after.system - before.user - before.system))


def test_waiting_costs_no_core() -> None:
    """VLLM's own queue between two processes: the message comes, and the wait for it takes next to no CPU time."""
    assert "busy_loop_s" in inspect.signature(shm_broadcast.SpinCondition).parameters
    ours, theirs = get_context("spawn").Pipe()
    queue = shm_broadcast.MessageQueue(1, 1)
    process = get_context("spawn").Process(target=read, args=(queue.export_handle(), theirs))
    process.start()
    assert ours.recv() == "ready"
    queue.wait_until_ready()  # type: ignore[no-untyped-call]
    queue.enqueue("first")
    time.sleep(0.5)
    queue.enqueue("second")
    first, second, cpu_seconds = ours.recv()
    process.join()
    assert (first, second) == ("first", "second")
    assert cpu_seconds < 0.25
