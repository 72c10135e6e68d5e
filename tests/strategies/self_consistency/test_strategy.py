"""Self-consistency over scripted samples."""

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from strategies import vote
from strategies.base import InvalidTask, Note, Thought
from strategies.call import Call
from strategies.engine import Sampling
from strategies.sampling import derive_seed
from strategies.self_consistency import SelfConsistency, SelfConsistencyParams
from strategies.session import Session
from tests.strategies.scripted import Clock, EngineBroke, Reply, ScriptedEngine, play, task_of


def strategy(samples: int, **params: Any) -> SelfConsistency:
    return SelfConsistency(SelfConsistencyParams(samples=samples, **params))


async def test_the_majority_wins() -> None:
    calls: list[Call] = []
    engine = ScriptedEngine(["it is 5", "I say it is 4", "so 4"])
    outcome = await play(strategy(3), task_of(), Session(engine, on_call=calls.append))
    assert (outcome.answer, outcome.finish_reason, len(outcome.pieces)) == ("so 4", "stop", 1)
    assert outcome.thoughts() == [
        ("sample", 0, "it is 5"),
        ("sample", 1, "I say it is 4"),
        ("sample", 2, "so 4"),
    ]
    # In the order in which they ended.
    assert [note for note in outcome.notes if note.kind == "vote"] == [
        Note("vote", "sample 2: 4", {"answer": "4", "votes": 1}, 2, "sample"),
        Note("vote", "sample 0: 5", {"answer": "5", "votes": 1}, 0, "sample"),
        Note("vote", "sample 1: 4", {"answer": "4", "votes": 2}, 1, "sample"),
    ]
    assert outcome.data("result") == [{"votes": {"4": 2, "5": 1}}]
    assert outcome.notes[-1].text == "2 of 3: 4"
    assert [call.role for call in calls] == ["sample"]


async def test_of_equals_the_first_to_end_wins() -> None:
    engine = ScriptedEngine(["well it is 1", "it is 2", "2", "then 1"])
    outcome = await play(strategy(4), task_of(), Session(engine))
    assert outcome.answer == "2"
    assert outcome.data("result") == [{"votes": {"2": 2, "1": 2}}]


async def test_samples_share_a_prompt_and_differ_in_seed() -> None:
    engine = ScriptedEngine(["1"] * 3)
    task = task_of(seed=5, temperature=0.7, stop=("END",), grammar="g", logprobs=2)
    session = Session(engine)
    await play(strategy(3, early_stop=False), task, session)
    assert [request.prompt for request in engine.requests] == [task.prompt] * 3
    assert [request.sampling.seed for request in engine.requests] == [5, derive_seed(5, 0, 1), derive_seed(5, 0, 2)]
    sampling = engine.requests[2].sampling
    assert (sampling.temperature, sampling.stop, sampling.grammar, sampling.logprobs) == (0.7, ("END",), "g", 2)
    assert (session.usage.calls, session.usage.branches, session.usage.prompt_tokens) == (1, 3, len(task.prompt))


async def test_a_decided_vote_stops_the_rest_and_counts_its_tokens() -> None:
    held = Reply("or maybe 7", hold_at=2, late="late")
    engine = ScriptedEngine(["4", held, "4", "is 4", held])
    session = Session(engine)
    outcome = await play(strategy(5), task_of(), session)
    assert (outcome.answer, sorted(engine.stopped)) == ("4", [1, 4])
    assert outcome.data("stop") == [{"reason": "vote_decided"}]
    assert outcome.data("result") == [{"votes": {"4": 3}}]
    assert session.usage.completion_tokens == (1 + 1 + 2) + 2 * 3
    assert session.limit is None


async def test_without_early_stop_every_sample_votes() -> None:
    engine = ScriptedEngine(["4", "4", "4", "or 7", "no it is 7"])
    outcome = await play(strategy(5, early_stop=False), task_of(), Session(engine))
    assert outcome.data("result") == [{"votes": {"4": 3, "7": 2}}]
    assert (outcome.data("stop"), engine.stopped) == ([], [])


async def test_an_early_stop_never_changes_the_winner() -> None:
    """1 came first, so a tie goes to it: two votes for 2 and one to come do not decide."""
    engine = ScriptedEngine(["1", "so 2", "so 2", "it is 1"])
    outcome = await play(strategy(4), task_of(), Session(engine))
    assert outcome.data("result") == [{"votes": {"1": 2, "2": 2}}]
    assert outcome.answer == "1"


async def test_cut_samples_have_no_vote_beside_whole_ones() -> None:
    cut = Reply("it is 7", finish_reason="length")
    outcome = await play(strategy(3), task_of(), Session(ScriptedEngine([cut, "so we get 4", cut])))
    assert (outcome.answer, outcome.finish_reason) == ("so we get 4", "stop")
    assert outcome.data("result") == [{"votes": {"4": 1}}]


async def test_cut_samples_vote_if_none_is_whole() -> None:
    session = Session(ScriptedEngine(["is 4 not", "is 7 or", "is 7 so"]), max_tokens=6)
    outcome = await play(strategy(3), task_of(), session)
    assert (outcome.answer, outcome.finish_reason, session.limit) == ("is 7", "length", "budget")
    assert outcome.data("result") == [{"votes": {"4": 1, "7": 2}}]


async def test_a_small_budget_leaves_fewer_samples() -> None:
    engine = ScriptedEngine(["4", "4"])
    session = Session(engine, max_tokens=2)
    outcome = await play(strategy(5), task_of(), session)
    assert (outcome.answer, outcome.finish_reason, len(engine.requests)) == ("4", "stop", 2)
    assert session.limit is None


async def test_an_empty_budget_gives_an_empty_answer() -> None:
    session = Session(ScriptedEngine(["4"] * 9), max_tokens=1)
    await session.call(task_of().prompt, Sampling(max_tokens=1)).finish()
    outcome = await play(strategy(5), task_of(), session)
    assert (outcome.answer, outcome.finish_reason, outcome.data("stopped")) == ("", "length", [{"limit": "budget"}])


async def test_a_deadline_leaves_the_vote_to_those_that_ended(clock: Clock) -> None:
    held = Reply("it is 7", hold_at=3)
    engine = ScriptedEngine([held, "is 4", held])
    session = Session(engine, max_seconds=5)
    playing = asyncio.create_task(play(strategy(3), task_of(), session))
    await engine.until_held(2)
    await clock.advance(5)
    outcome = await playing
    assert (outcome.answer, outcome.finish_reason, session.limit) == ("is 4", "stop", "deadline")


async def test_a_deadline_before_any_end_leaves_it_to_all(clock: Clock) -> None:
    engine = ScriptedEngine([Reply("is 4 I", hold_at=2), Reply("is 7 so", hold_at=2), Reply("7 it", hold_at=1)])
    session = Session(engine, max_seconds=5)
    playing = asyncio.create_task(play(strategy(3), task_of(), session))
    await engine.until_held(3)
    await clock.advance(5)
    outcome = await playing
    assert (outcome.answer, outcome.finish_reason, session.limit) == ("is 7", "abort", "deadline")


async def test_a_deadline_ends_the_comparing_of_answers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judging hostile expressions may take longer than all the generation."""

    async def forever(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(vote, "find_same", forever)
    session = Session(ScriptedEngine(["it is 5", "it is 4"]), max_seconds=0.2)
    outcome = await play(strategy(2), task_of(), session)
    assert outcome.answer in ("it is 5", "it is 4")
    assert session.limit == "deadline"


async def test_an_engine_error_ends_the_vote() -> None:
    engine = ScriptedEngine([Reply("it is 4", hold_at=1), Reply("it is 4", fail_at=2)])
    with pytest.raises(EngineBroke):
        await play(strategy(2), task_of(), Session(engine))
    assert not engine.running


@pytest.mark.parametrize("kind", ["choice", "text"])
async def test_the_kind_of_answer_is_the_clients(kind: str) -> None:
    engine = ScriptedEngine(["(A) or (B)", "surely (B)", "surely (B)"])
    outcome = await play(strategy(3, answer=kind, early_stop=False), task_of(), Session(engine))
    expected = {"choice": {"B": 3}, "text": {"surely (b)": 2, "(a) or (b)": 1}}
    assert outcome.data("result") == [{"votes": expected[kind]}]


async def test_a_piece_without_text_is_no_thought() -> None:
    engine = ScriptedEngine([Reply("4", hold_at=1)])
    playing = asyncio.create_task(play(strategy(1), task_of(), Session(engine)))
    await engine.until_held()
    engine.release()
    outcome = await playing
    assert [event for event in outcome.events if isinstance(event, Thought)] == [Thought("4", "sample", 0)]
    assert (outcome.answer, outcome.finish_reason) == ("4", "stop")


def test_greedy_samples_are_refused() -> None:
    with pytest.raises(InvalidTask, match="temperature 0"):
        strategy(2).check(task_of(temperature=0.0), ScriptedEngine([]))
    strategy(1).check(task_of(temperature=0.0), ScriptedEngine([]))


@pytest.mark.parametrize("params", [{"samples": 0}, {"samples": 65}, {"answer": "number"}, {"early_stop": 1}])
def test_params_refuse(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SelfConsistencyParams.model_validate(params)


def test_defaults() -> None:
    assert SelfConsistency().params == SelfConsistencyParams(samples=5, answer="auto", early_stop=True)
