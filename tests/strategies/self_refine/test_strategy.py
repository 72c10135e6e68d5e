"""Self-Refine over a scripted conversation."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from strategies.base import Answer, InvalidTask, Note, Task, Thought
from strategies.call import Call
from strategies.engine import Prompt, Sampling
from strategies.self_refine import SelfRefine, SelfRefineParams
from strategies.self_refine.feedback import FEEDBACK, REVISION
from strategies.session import Session
from tests.strategies.scripted import Clock, EngineBroke, Reply, ScriptedEngine, events_of, play, task_of

TOOLS = [{"type": "function", "function": {"name": "add"}}]
TWO = ("is short", "rhymes")


def strategy(**params: Any) -> SelfRefine:
    return SelfRefine(SelfRefineParams(**params))


def sure(text: str, logprob: float, **reply: Any) -> Reply:
    """A reply whose tokens all have this log-probability."""
    return Reply(text, logprobs=[[logprob]] * len(text.split()), **reply)


def kinds(engine: ScriptedEngine) -> str:
    """What the engine was asked for in turn: a (d)raft, (c)ritique or (r)evision."""
    asked = {REVISION: "r", FEEDBACK: "c"}
    return "".join(
        asked.get(request.asked, "c" if request.asked.startswith("Check your answer") else "d")
        for request in engine.requests
    )


# The loop.


async def test_a_critique_without_fault_ends_it() -> None:
    calls: list[Call] = []
    engine = ScriptedEngine(["it is 42", "no fault"])
    session = Session(engine, on_call=calls.append)
    outcome = await play(strategy(rounds=3), task_of(), session)
    assert kinds(engine) == "dc"
    assert outcome.thoughts() == [("draft", 0, "it is 42"), ("critique", 0, "no fault")]
    assert outcome.notes == [
        Note("critique", "no fault found", {"round": 0, "met": 1.0, "faults": ()}),
        Note("stop", "the critique found no fault", {"reason": "no_fault"}),
        Note("kept", "draft 0 of 1", {"round": 0, "drafts": 1}),
    ]
    assert (outcome.answer, outcome.finish_reason, len(outcome.pieces)) == ("it is 42", "stop", 1)
    assert [call.role for call in calls] == ["draft", "critique"]
    assert (session.rounds, session.usage.completion_tokens, session.limit) == (0, 5, None)


async def test_one_round_by_default() -> None:
    calls: list[Call] = []
    engine = ScriptedEngine(["it is 41", "41 is wrong", "it is 42", "42 is wrong"])
    session = Session(engine, on_call=calls.append)
    outcome = await play(SelfRefine(), task_of(), session)
    assert [call.role for call in calls] == ["draft", "critique", "revision", "critique"]
    assert outcome.thoughts() == [
        ("draft", 0, "it is 41"),
        ("critique", 0, "41 is wrong"),
        ("revision", 1, "it is 42"),
        ("critique", 1, "42 is wrong"),
    ]
    assert [data["faults"] for data in outcome.data("critique")] == [("41 is wrong",), ("42 is wrong",)]
    assert (outcome.answer, session.rounds) == ("it is 42", 1)


@pytest.mark.parametrize("rounds", [1, 2, 8])
async def test_rounds_bound_the_revisions(rounds: int) -> None:
    engine = ScriptedEngine(lambda request: "wrong" if "Check your answer" in request.asked else "it is 42")
    session = Session(engine)
    outcome = await play(strategy(rounds=rounds), task_of(), session)
    assert kinds(engine) == "d" + "cr" * rounds + "c"
    assert (session.rounds, len(outcome.data("critique"))) == (rounds, rounds + 1)


async def test_stop_never_uses_all_rounds() -> None:
    engine = ScriptedEngine(lambda request: "no fault" if "Check your answer" in request.asked else "it is 42")
    outcome = await play(strategy(rounds=2, stop="never"), task_of(), Session(engine))
    assert (kinds(engine), outcome.data("stop")) == ("dcrcrc", [])


async def test_it_ends_in_the_round_that_has_no_fault() -> None:
    engine = ScriptedEngine(["41", "wrong", "42", "No fault."])
    session = Session(engine)
    outcome = await play(strategy(rounds=5), task_of(), session)
    assert (kinds(engine), outcome.answer, session.rounds) == ("dcrc", "42", 1)


async def test_criteria_are_asked_for_and_all_met_ends_it() -> None:
    engine = ScriptedEngine(["41", "1. met\n2. not met: no rhyme", "42", "1. met\n2. met"])
    outcome = await play(strategy(rounds=5, criteria=TWO), task_of(), Session(engine))
    assert kinds(engine) == "dcrc"
    assert "1. is short\n2. rhymes" in engine.requests[1].asked
    assert [(data["met"], data["faults"]) for data in outcome.data("critique")] == [(0.5, ("rhymes",)), (1.0, ())]
    assert outcome.answer == "42"


# What is kept.


@pytest.mark.parametrize(
    ("draft", "critique", "revision", "critique_again", "chosen"),
    [
        (sure("d", -1), "1. met", sure("r", -9), "1. met\n2. met", "r"),
        (sure("d", -9), "1. met", sure("r", -1), "none is met", "d"),
        (sure("d", -1), "1. met", sure("r", -2), "2. met", "d"),
        (sure("d", -2), "1. met", sure("r", -1), "2. met", "r"),
        (sure("d", -1), "1. met", sure("r", -1), "2. met", "r"),
        (sure("d d", -2), "", sure("r", -3), "", "d d"),
        (sure("d", -9), "", sure("r", -1, finish_reason="length"), "1. met\n2. met", "d"),
        (sure("d", -1, finish_reason="length"), "1. met", sure("r", -9), "", "r"),
    ],
    ids=[
        "more criteria",
        "fewer criteria",
        "as many, likelier",
        "as many, unlikelier",
        "equal: the newest",
        "likelier by token, not as a whole",
        "whole before cut, though worse",
        "whole before cut, though older",
    ],
)
async def test_the_best_checked_draft_is_kept(
    draft: Reply, critique: str, revision: Reply, critique_again: str, chosen: str
) -> None:
    engine = ScriptedEngine([draft, critique, revision, critique_again])
    outcome = await play(strategy(criteria=TWO), task_of(), Session(engine))
    assert (outcome.answer, outcome.finish_reason, len(outcome.pieces)) == (chosen, "stop", 1)
    number = {"d": 0, "r": 1}[chosen[0]]
    assert outcome.data("kept") == [{"round": number, "drafts": 2}]


async def test_keep_last_streams_the_last_revision_unchecked() -> None:
    engine = ScriptedEngine(["d", "wrong", sure("r", -9), "wrong", Reply("s t", hold_at=1)])
    async with Session(engine) as session:
        events = events_of(strategy(rounds=2, keep="last"), task_of(), session)
        thoughts = []
        async for event in events:
            if isinstance(event, Answer):
                break
            thoughts.append(event)
        assert isinstance(event, Answer)
        assert (event.piece.text, engine.running) == ("s", {4})
        engine.release()
        rest = [event async for event in events]
    assert [event.piece.text for event in rest if isinstance(event, Answer)] == [" t"]
    assert [event.role for event in thoughts if isinstance(event, Thought)] == [
        "draft",
        "critique",
        "revision",
        "critique",
    ]
    assert (kinds(engine), session.rounds, len(rest)) == ("dcrcr", 2, 1)


async def test_keep_last_gives_the_newest_even_if_it_is_worse() -> None:
    engine = ScriptedEngine([sure("d", -1), "1. met", sure("r", -9), ""])
    outcome = await play(strategy(criteria=TWO, keep="last"), task_of(), Session(engine))
    assert (kinds(engine), outcome.answer, outcome.finish_reason) == ("dcr", "r", "stop")


async def test_keep_last_still_stops_at_no_fault() -> None:
    outcome = await play(strategy(keep="last"), task_of(), Session(ScriptedEngine(["d e", "no fault"])))
    assert (outcome.answer, outcome.finish_reason, len(outcome.pieces)) == ("d e", "stop", 1)


# What each call is asked.


async def test_each_prompt_begins_with_the_one_before() -> None:
    engine = ScriptedEngine(["d1", "c1", "r2", "c2", "r3", "c3"])
    task = task_of("What?")
    await play(strategy(rounds=2), task, Session(engine))
    prompts = [request.prompt.token_ids for request in engine.requests]
    assert prompts[0] == task.prompt.token_ids
    assert all(after[: len(before)] == before and len(after) > len(before) for before, after in pairwise(prompts))
    assert engine.requests[-1].text == (
        f"<user>What?<end><assistant>d1<end><user>{FEEDBACK}<end><assistant>c1<end>"
        f"<user>{REVISION}<end><assistant>r2<end><user>{FEEDBACK}<end><assistant>c2<end>"
        f"<user>{REVISION}<end><assistant>r3<end><user>{FEEDBACK}<end><assistant>"
    )


async def test_only_answers_get_grammar_stop_strings_and_tools() -> None:
    engine = ScriptedEngine(["d", "c", "r", "c"])
    task = task_of(
        tools=TOOLS,
        grammar="g",
        stop=("END",),
        stop_token_ids=(9,),
        logit_bias={1: 2.0},
        min_tokens=1,
        temperature=0.5,
        max_tokens=70,
    )
    await play(strategy(critique_tokens=33), task, Session(engine))
    answers = [engine.requests[0], engine.requests[2]]
    assert all("<tools>" in request.text for request in answers)
    assert [tools for _, tools in engine.rendered] == [None, TOOLS, None]
    for request in answers:
        sampling = request.sampling
        assert (sampling.grammar, sampling.stop, sampling.stop_token_ids) == ("g", ("END",), (9,))
        assert (sampling.max_tokens, sampling.min_tokens, sampling.logprobs) == (70, 1, 0)
    for request in (engine.requests[1], engine.requests[3]):
        assert "<tools>" not in request.text
        assert request.sampling == Sampling(max_tokens=33, temperature=0.5)


async def test_seeds_differ_and_the_draft_keeps_the_clients() -> None:
    engine = ScriptedEngine(["d", "c", "r", "c", "r", "c"])
    await play(strategy(rounds=2), task_of(seed=5), Session(engine))
    seeds = [request.sampling.seed for request in engine.requests]
    assert (seeds[0], len(set(seeds))) == (5, 6)


@pytest.mark.parametrize(("asked", "got"), [(None, 0), (0, 0), (5, 5)])
async def test_drafts_have_the_logprobs_that_rank_them(asked: int | None, got: int) -> None:
    engine = ScriptedEngine(["d", "c", "r", "c"])
    await play(SelfRefine(), task_of(logprobs=asked), Session(engine))
    assert [request.sampling.logprobs for request in engine.requests] == [got, None, got, None]


async def test_the_clients_conversation_is_not_changed() -> None:
    task = task_of("What?")
    await play(SelfRefine(), task, Session(ScriptedEngine(["d", "c", "r", "c"])))
    assert task.messages == [{"role": "user", "content": "What?"}]


# Limits.


@pytest.mark.parametrize(
    ("budget", "asked", "answer", "finish_reason", "exhausted"),
    [
        (2, "d", "d e", "length", True),
        (3, "d", "d e f", "stop", True),
        (4, "dc", "d e f", "stop", True),
        (5, "dc", "d e f", "stop", True),
        (7, "dcr", "d e f", "stop", True),
        (8, "dcr", "r s t", "stop", True),
        (9, "dcrc", "r s t", "stop", False),
    ],
    ids=["draft", "after draft", "critique", "after critique", "revision", "after revision", "last critique"],
)
async def test_the_budget_ends_it_at_each_stage(
    budget: int, asked: str, answer: str, finish_reason: str, exhausted: bool
) -> None:
    engine = ScriptedEngine(["d e f", "is wrong", "r s t", "no fault"])
    session = Session(engine, max_tokens=budget)
    outcome = await play(SelfRefine(), task_of(), session)
    assert (kinds(engine), outcome.answer, outcome.finish_reason) == (asked, answer, finish_reason)
    assert (session.limit, session.usage.completion_tokens, len(outcome.pieces)) == ("budget", budget, 1)
    assert outcome.data("stopped") == [{"limit": "budget"}] * exhausted


async def test_a_budget_that_suffices_is_no_limit() -> None:
    session = Session(ScriptedEngine(["d e f", "is wrong", "r s t", "no fault"]), max_tokens=10)
    outcome = await play(SelfRefine(), task_of(), session)
    assert (outcome.answer, session.limit, outcome.data("stopped")) == ("r s t", None, [])


@pytest.mark.parametrize(
    ("budget", "answer", "finish_reason"), [(2, "d e", "length"), (5, "d e f", "stop"), (7, "r s", "length")]
)
async def test_the_budget_ends_it_with_the_last_answer(budget: int, answer: str, finish_reason: str) -> None:
    session = Session(ScriptedEngine(["d e f", "is wrong", "r s t"]), max_tokens=budget)
    outcome = await play(strategy(keep="last"), task_of(), session)
    assert (outcome.answer, outcome.finish_reason, session.limit) == (answer, finish_reason, "budget")


async def test_each_check_may_change_what_is_kept() -> None:
    """The budget ends the second revision; by then the first one has been checked and is better than the draft."""
    engine = ScriptedEngine([sure("d e f", -1), "", sure("r s t", -9), "1. met", "never"])
    outcome = await play(strategy(rounds=2, criteria=TWO), task_of(), Session(engine, max_tokens=8))
    assert (kinds(engine), outcome.answer, outcome.finish_reason) == ("dcrc", "r s t", "stop")


async def test_keep_last_gives_the_newest_that_the_budget_allows() -> None:
    engine = ScriptedEngine([sure("d e f", -1), "1. met", sure("r s t", -9), "never"])
    session = Session(engine, max_tokens=8)
    outcome = await play(strategy(rounds=2, criteria=TWO, keep="last"), task_of(), session)
    assert (kinds(engine), outcome.answer, outcome.finish_reason) == ("dcr", "r s t", "stop")


async def test_an_unchecked_revision_does_not_replace_a_checked_draft() -> None:
    engine = ScriptedEngine([sure("d e f", -9), "1. met", sure("r s t", -1)])
    outcome = await play(strategy(criteria=TWO), task_of(), Session(engine, max_tokens=8))
    assert (kinds(engine), outcome.answer) == ("dcr", "d e f")


@pytest.mark.parametrize(
    ("replies", "answer", "finish_reason"),
    [
        (["d e f"], "d", "length"),
        (["d e f", "is wrong"], "d e f", "stop"),
        (["d e f", "is wrong", "r s t"], "d e f", "stop"),
    ],
    ids=["draft", "critique", "revision"],
)
async def test_the_deadline_ends_it_at_each_stage(
    replies: Sequence[str], answer: str, finish_reason: str, clock: Clock
) -> None:
    engine = ScriptedEngine([*replies[:-1], Reply(replies[-1], hold_at=1)])
    session = Session(engine, max_seconds=5)
    playing = asyncio.create_task(play(SelfRefine(), task_of(), session))
    await engine.until_held()
    await clock.advance(5)
    outcome = await playing
    assert (outcome.answer, outcome.finish_reason, session.limit) == (answer, finish_reason, "deadline")
    assert outcome.data("stopped") == [{"limit": "deadline"}]


async def test_a_conversation_that_outgrows_the_context_ends_it() -> None:
    task = task_of()
    engine = ScriptedEngine(["d e f"], max_model_len=len(task.prompt) + 20)
    session = Session(engine)
    outcome = await play(SelfRefine(), task, session)
    assert (outcome.answer, outcome.finish_reason, session.limit) == ("d e f", "stop", "context")


async def test_an_engine_error_ends_it() -> None:
    with pytest.raises(EngineBroke):
        await play(SelfRefine(), task_of(), Session(ScriptedEngine(["d", Reply("c", fail_at=0)])))


# What it refuses.


def test_an_assistant_message_cannot_be_continued() -> None:
    task = Task([], Prompt((1,)), Sampling(max_tokens=9), continues=True)
    with pytest.raises(InvalidTask, match="cannot continue") as raised:
        SelfRefine().check(task, ScriptedEngine([]))
    assert raised.value.param == "continue_final_message"
    SelfRefine().check(task_of(temperature=0.0), ScriptedEngine([]))


@pytest.mark.parametrize(
    "params",
    [
        {"rounds": 0},
        {"rounds": 9},
        {"criteria": "short"},
        {"criteria": tuple("c" * 33)},
        {"keep": "first"},
        {"stop": "always"},
        {"critique_tokens": 15},
    ],
)
def test_params_refuse(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SelfRefineParams.model_validate(params)


def test_params_from_json() -> None:
    params = SelfRefineParams.model_validate_json('{"criteria": ["is short"], "rounds": 2}')
    assert params == SelfRefineParams(rounds=2, criteria=("is short",), keep="best", stop="no_fault")
