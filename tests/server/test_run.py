"""What a run makes of strategies that misbehave, and of waiting."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest
from typing_extensions import override

from server.errors import ApiError, StrategyFailed
from server.limits import RunLimiter
from server.resolve import Plan
from server.run import StrategyRun
from server.settings import Settings
from strategies import session as sessions
from strategies.base import Answer, Budget, Event, InvalidTask, Strategy, Task, Thought
from strategies.direct import Direct
from strategies.engine import Piece
from strategies.session import Session
from tests.strategies.scripted import PATIENCE, EngineBroke, Reply, ScriptedEngine, task_of


class Drafts(Strategy):
    """Drafts, and keeps the draft."""

    name = "drafts"
    summary = "Drafts."

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        call = engine.call(task.prompt, task.sampling_for("draft", logprobs=None), role="draft")
        async for piece in call:
            yield Thought(piece.text, "draft")
        engine.keep(call.result)


class Sleeps(Drafts):
    """Then waits for what is no engine call, forever."""

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        async for event in super().run(task, engine):
            yield event
        await asyncio.Event().wait()


class Raises(Drafts):
    """Then fails."""

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        async for event in super().run(task, engine):
            yield event
        raise ValueError("my secret")


class GoesOn(Drafts):
    """Does not end with its answer."""

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        yield Answer(Piece("a", finish_reason="stop"))
        yield Answer(Piece("b", finish_reason="stop"))


def run_of(strategy: Strategy, limiter: RunLimiter | None = None, max_seconds: float | None = None) -> StrategyRun:
    plan = Plan(None, None, strategy, [], Budget(max_seconds=max_seconds))
    return StrategyRun(plan, lambda event: None, Settings(), limiter or RunLimiter(1, 0))


async def answer(run: StrategyRun, engine: ScriptedEngine, task: Task | None = None) -> tuple[str, str | None]:
    """Text and finish reason."""
    async with asyncio.timeout(PATIENCE):
        pieces = [piece async for piece in run.answer(task or task_of(), engine, None)]
    return "".join(piece.text for piece in pieces), pieces[-1].finish_reason


async def test_the_deadline_holds_for_whatever_a_strategy_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "GRACE_SECONDS", 0.1)
    run = run_of(Sleeps(), max_seconds=0.1)
    assert await answer(run, ScriptedEngine(["a draft"])) == ("a draft", "stop")
    assert run.stop_reason == "deadline"


async def test_waiting_for_its_turn_takes_of_the_deadline() -> None:
    limiter, engine = RunLimiter(1, 1), ScriptedEngine([])
    run = run_of(Direct(), limiter, max_seconds=0.1)
    began = time.monotonic()
    async with limiter.slot():
        assert await answer(run, engine) == ("", "length")
    assert time.monotonic() - began < PATIENCE / 2
    assert (run.stop_reason, engine.requests) == ("deadline", [])
    assert run.usage.completion_tokens == 0
    # Its place in the queue is free again.
    async with limiter.slot():
        pass


async def test_a_full_queue_is_an_error_at_once() -> None:
    limiter = RunLimiter(1, 0)
    async with limiter.slot():
        with pytest.raises(ApiError) as raised:
            await answer(run_of(Direct(), limiter, max_seconds=1), ScriptedEngine([]))
    assert raised.value.status == 429


async def test_what_a_strategy_says_in_failing_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StrategyFailed) as raised, caplog.at_level(logging.ERROR):
        await answer(run_of(Raises()), ScriptedEngine(["a"]))
    assert "secret" not in str(raised.value)
    assert "drafts" in str(raised.value)
    assert "my secret" in caplog.text


async def test_a_strategy_without_an_answer_has_failed() -> None:
    with pytest.raises(StrategyFailed):
        await answer(run_of(Drafts()), ScriptedEngine(["a"]))


async def test_a_strategy_that_goes_on_after_its_answer_has_failed() -> None:
    with pytest.raises(StrategyFailed):
        await answer(run_of(GoesOn()), ScriptedEngine([]))


async def test_an_engine_error_is_the_engines() -> None:
    run = run_of(Drafts())
    with pytest.raises(EngineBroke):
        await answer(run, ScriptedEngine([Reply("a b", fail_at=1)]))


@pytest.mark.parametrize("logprobs", [-1, 21, 10_000])
async def test_log_probabilities_that_the_engine_does_not_give(logprobs: int) -> None:
    engine = ScriptedEngine([])
    with pytest.raises(InvalidTask, match="0 to 20"):
        await answer(run_of(Direct()), engine, task_of(logprobs=logprobs))
    assert not engine.requests


async def test_leaving_while_waiting_frees_the_place() -> None:
    limiter = RunLimiter(1, 1)
    async with limiter.slot():
        waiting = asyncio.create_task(answer(run_of(Direct(), limiter), ScriptedEngine([])))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with limiter.slot():
        pass
