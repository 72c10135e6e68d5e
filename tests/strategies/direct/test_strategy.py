"""The plain answer."""

import asyncio

from strategies.base import Answer
from strategies.call import Call
from strategies.direct import Direct
from strategies.engine import Sampling
from strategies.session import Session
from tests.strategies.scripted import Clock, Reply, ScriptedEngine, events_of, play, task_of


async def test_answer_is_one_call_as_the_client_asked() -> None:
    calls: list[Call] = []
    engine = ScriptedEngine([Reply("six by seven", stop_reason="END")])
    task = task_of(seed=5, stop=("END",), logprobs=2, grammar="g", temperature=0.0)
    session = Session(engine, on_call=calls.append)
    outcome = await play(Direct(), task, session)
    assert (outcome.answer, outcome.finish_reason, outcome.pieces[-1].stop_reason) == ("six by seven", "stop", "END")
    assert [piece.text for piece in outcome.pieces] == ["six", " by", " seven"]
    assert all(piece.logprobs for piece in outcome.pieces)
    assert len(outcome.events) == 3
    assert [(request.prompt, request.sampling) for request in engine.requests] == [(task.prompt, task.sampling)]
    assert [call.role for call in calls] == ["final"]
    assert session.limit is None


async def test_answer_streams() -> None:
    engine = ScriptedEngine([Reply("a b", hold_at=1)])
    async with Session(engine) as session:
        events = events_of(Direct(), task_of(), session)
        first = await anext(events)
        assert isinstance(first, Answer)
        assert (first.piece.text, engine.running) == ("a", {0})
        await events.aclose()


async def test_budget_cuts_the_answer() -> None:
    session = Session(ScriptedEngine(["a b c"]), max_tokens=2)
    outcome = await play(Direct(), task_of(), session)
    assert (outcome.answer, outcome.finish_reason, session.limit) == ("a b", "length", "budget")


async def test_deadline_cuts_the_answer(clock: Clock) -> None:
    engine = ScriptedEngine([Reply("a b c", hold_at=2)])
    session = Session(engine, max_seconds=5)
    playing = asyncio.create_task(play(Direct(), task_of(), session))
    await engine.until_held()
    await clock.advance(5)
    outcome = await playing
    assert (outcome.answer, outcome.finish_reason, session.limit) == ("a b", "abort", "deadline")


async def test_a_prompt_that_is_too_long_gives_an_empty_answer() -> None:
    task = task_of()
    engine = ScriptedEngine([], max_model_len=len(task.prompt))
    outcome = await play(Direct(), task, Session(engine))
    assert (outcome.answer, outcome.finish_reason, outcome.data("stopped")) == ("", "length", [{"limit": "context"}])


async def test_decoders_act_on_the_call() -> None:
    engine = ScriptedEngine(["a"])
    await play(Direct(), task_of(), Session(engine, decode=lambda sampling, _: Sampling(max_tokens=3, extra={"d": 1})))
    assert engine.requests[0].sampling == Sampling(max_tokens=3, extra={"d": 1})
