"""Every branch of TT-SI's control flow, on an engine that says and learns what is written here."""

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from strategies.base import InvalidTask, Note, Task
from strategies.engine import Capability, NotTaught, NotTrained, Prompt, Sampling
from strategies.judge import Undecided
from strategies.session import Session
from strategies.ttsi import TTSI, TTSIParams
from strategies.ttsi.uncertainty import calling
from tests.strategies.scripted import Clock, Outcome, Reply, Request, play
from tests.strategies.ttsi.test_uncertainty import CallingEngine, tool

TOOLS = [tool("rain"), tool("snow")]
PAIR = json.dumps({"question": "Rome?", "call": {"name": "rain", "arguments": {}}})
TEXT_PAIR = json.dumps({"question": "2 + 2?", "answer": "4"})
ALL: Sequence[Capability] = ("tokens", "logprobs", "grammar", "scores", "training", "teacher")


def engine_of(*pairs: str, certain: bool = False, losses: Sequence[float | Exception] = (2.0, 1.0)) -> CallingEngine:
    """It answers `it is`, and writes these pairs, one after the other. Both tools are as likely, or one alone is."""
    left = list(pairs)

    def script(request: Request) -> str:
        return left.pop(0) if request.sampling.grammar is not None else "it is"

    def score(prompt: Prompt, token: int) -> float:
        return (0.0 if chr(token) in "rain" else -50.0) if certain else -1.0

    engine = CallingEngine(script, scores=score)
    engine.capabilities = replace(engine.capabilities, names=frozenset(ALL), max_adapter_rank=16)
    engine.losses = list(losses)
    return engine


async def task_of(engine: CallingEngine, tools: Any = TOOLS, **sampling: Any) -> Task:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "rain?"}]
    prompt = await engine.render(messages, tools)
    return Task(messages, prompt, Sampling(**{"max_tokens": 100, **sampling}), tools)


async def played(engine: CallingEngine, tools: Any = TOOLS, seconds: float | None = None, **params: Any) -> Outcome:
    return await play(TTSI(TTSIParams(**params)), await task_of(engine, tools), Session(engine, max_seconds=seconds))


def final(engine: CallingEngine) -> Request:
    """The call that made the answer."""
    return engine.requests[-1]


async def test_a_certain_request_is_answered_with_the_served_weights() -> None:
    engine = engine_of(certain=True)
    outcome = await played(engine)
    assert (outcome.answer, outcome.finish_reason) == ("it is", "stop")
    (note,) = outcome.data("uncertainty")
    assert (note["gap"] > 0.95, note["uncertain"]) == (True, False)
    assert len(engine.requests) == 1
    assert final(engine).adapter is None
    assert not engine.fitted


async def test_an_uncertain_one_is_learnt_for() -> None:
    engine = engine_of(PAIR)
    outcome = await played(engine)
    (note,) = outcome.data("uncertainty")
    assert note["gap"] == pytest.approx(0)
    assert note["shares"] == {"rain": pytest.approx(0.5), "snow": pytest.approx(0.5)}
    assert [(note["epoch"], note["loss"]) for note in outcome.data("epoch")] == [(1, 2.0), (2, 1.0)]
    assert final(engine).adapter == "adapter 1"
    assert engine.dropped == ["adapter 1"]
    ((examples, training, keep),) = engine.fitted
    assert (training.rank, training.alpha, training.epochs, training.learning_rate) == (8, 16, 5, 1e-4)
    assert (training.schedule, training.warmup, keep) == ("cosine", 0.03, None)
    (example,) = examples
    text = "".join(map(chr, example.token_ids))
    assert text.startswith("<system>be brief<end><user>Rome?<end><assistant>")
    assert text[-example.learnt :].startswith("<call rain>")
    written = [{"question": "Rome?", "call": {"name": "rain", "arguments": {}}}]
    assert outcome.data("pairs") == [{"pairs": 1, "refused": 0, "uncertain": 0, "written": written}]
    # The pair is drawn by its own rules, the answer by the client's.
    assert engine.requests[0].sampling.temperature == 0.7
    assert final(engine).sampling.temperature == 1.0


async def test_pairs_of_another_shape_are_drawn_anew() -> None:
    engine = engine_of("no pair", PAIR, PAIR, "{", PAIR)
    outcome = await played(engine, pairs=3)
    (note,) = outcome.data("pairs")
    assert (note["pairs"], note["refused"]) == (3, 2)
    assert len(engine.fitted[0][0]) == 3
    assert len({one.prompt.token_ids for one in engine.requests[:5]}) == 1


async def test_without_a_pair_it_answers_as_it_is() -> None:
    engine = engine_of("no", "none", "never")
    outcome = await played(engine)
    assert (outcome.answer, final(engine).adapter) == ("it is", None)
    (note,) = outcome.data("fallback")
    assert "no pair" in note["reason"]


async def test_an_engine_that_refuses_to_write_pairs() -> None:
    """Of a tool whose schema makes no grammar, say. Nothing else is wrong with the request."""
    engine = engine_of()
    engine._script = lambda request: Reply("{", fail_at=0) if request.sampling.grammar is not None else "it is"
    outcome = await played(engine)
    assert (outcome.answer, final(engine).adapter) == ("it is", None)
    assert "no pair can be written: branch 0" in outcome.data("fallback")[0]["reason"]


async def test_a_fault_of_ours_is_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise KeyError("ours")

    engine = engine_of(PAIR)
    monkeypatch.setattr(engine, "grammar", broken)
    with pytest.raises(KeyError, match="ours"):
        await played(engine)


@pytest.mark.parametrize("losses", [(NotTrained("it died"),), (2.0, NotTrained("it died"))], ids=str)
async def test_a_training_that_fails_leaves_the_served_weights(losses: Sequence[Any]) -> None:
    engine = engine_of(PAIR, losses=losses)
    outcome = await played(engine)
    assert (outcome.answer, final(engine).adapter, engine.dropped) == ("it is", None, [])
    assert outcome.data("fallback") == [{"reason": "it died"}]


async def test_a_training_takes_half_of_the_time_that_is_left(clock: Clock) -> None:
    """The answer needs the rest."""
    engine = engine_of(PAIR)
    session = Session(engine, max_seconds=10)
    notes: list[Note] = []
    async with session:
        async for event in TTSI().run(await task_of(engine), session):
            if isinstance(event, Note):
                notes.append(event)
                if event.kind == "epoch":
                    await clock.advance(6)
    assert [note.kind for note in notes] == ["uncertainty", "pairs", "epoch", "fallback"]
    assert "too little time" in notes[-1].text
    assert final(engine).adapter is None


async def test_what_comes_before_the_answer_takes_half_of_the_tokens() -> None:
    """A pair that needs more is cut, and the answer is not."""
    engine = engine_of(*["x" * 100] * 3)
    session = Session(engine, max_tokens=40)
    outcome = await play(TTSI(TTSIParams()), await task_of(engine), session)
    assert (outcome.answer, outcome.finish_reason) == ("it is", "stop")
    assert outcome.data("fallback")
    assert session.limit is None


async def test_one_that_is_kept_and_cannot_be_had_in_time(clock: Clock) -> None:
    engine = engine_of(PAIR)

    async def recall(name: str) -> Any:
        await asyncio.Event().wait()

    engine.recall = recall  # type: ignore[method-assign]
    session = Session(engine, max_seconds=10)
    task = await task_of(engine)

    async def pass_time() -> None:
        await asyncio.sleep(0)
        await clock.advance(6)

    outcome, _ = await asyncio.gather(play(TTSI(TTSIParams(keep="cache")), task, session), pass_time())
    assert (outcome.answer, final(engine).adapter) == ("it is", None)
    assert "too little time" in outcome.data("fallback")[0]["reason"]


async def test_a_template_that_writes_no_calls() -> None:
    engine = engine_of()
    render = engine.render

    async def deaf(messages: Any, tools: Any = None) -> Prompt:
        return await render([message for message in messages if not message.get("tool_calls")], None)

    engine.render = deaf  # type: ignore[method-assign]
    outcome = await played(engine)
    assert outcome.answer == "it is"
    assert "template" in outcome.data("fallback")[0]["reason"]


async def test_where_the_client_names_a_tool_there_is_no_other() -> None:
    engine = engine_of(PAIR, json.dumps({"question": "Rome?", "call": {"name": "snow", "arguments": {}}}))
    task = replace(await task_of(engine), tool="snow")
    outcome = await play(TTSI(TTSIParams(threshold=1)), task, Session(engine))
    assert outcome.data("uncertainty")[0]["shares"] == {"snow": 1}
    assert (outcome.data("pairs")[0]["pairs"], outcome.data("pairs")[0]["refused"]) == (1, 1)
    # It is learnt as it is asked: with all tools in the prompt.
    assert final(engine).adapter == "adapter 1"


async def test_good_pairs_are_learnt_though_the_next_fails() -> None:
    engine = engine_of()
    engine.lessons = [PAIR, PAIR, NotTaught("it is away")]
    outcome = await played(engine, mode="teacher", pairs=3)
    assert outcome.data("pairs")[0]["pairs"] == 2
    assert len(engine.fitted[0][0]) == 2
    assert final(engine).adapter == "adapter 1"


async def test_a_schema_that_takes_too_long_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(PAIR, PAIR, PAIR)
    asked = 0

    async def judged(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        raise Undecided

    monkeypatch.setattr("strategies.ttsi.pairs.judged", judged)
    outcome = await played(engine, pairs=3)
    assert asked == 1
    assert "too long to check" in outcome.data("fallback")[0]["reason"]
    assert outcome.answer == "it is"


async def test_pairs_in_the_prompt() -> None:
    engine = engine_of(PAIR)
    outcome = await played(engine, mode="in_context")
    assert not engine.fitted
    text = "".join(map(chr, final(engine).prompt.token_ids))
    assert text.startswith("<system>be brief<end><user>Rome?<end><assistant><call rain><end><user>rain?<end>")
    assert outcome.answer == "it is"


async def test_a_teacher_writes_the_pairs() -> None:
    engine = engine_of()
    engine.lessons = ["no pair", PAIR]
    await played(engine, mode="teacher")
    assert len(engine.taught) == 2
    assert final(engine).adapter == "adapter 1"
    assert len(engine.requests) == 1


async def test_a_teacher_that_does_not_answer() -> None:
    engine = engine_of()
    engine.lessons = [NotTaught("it is away")]
    outcome = await played(engine, mode="teacher")
    assert outcome.data("fallback") == [{"reason": "it is away"}]
    assert final(engine).adapter is None


async def test_only_pairs_that_it_is_certain_of() -> None:
    engine = engine_of(PAIR, PAIR, PAIR)
    outcome = await played(engine, certain_only=True)
    assert outcome.data("pairs")[0]["uncertain"] == 3
    assert not engine.fitted
    engine = engine_of(PAIR)
    engine._scores = lambda prompt, token: (
        -1.0 if "Rome" not in "".join(map(chr, prompt.token_ids)) else (0.0 if chr(token) in "rain" else -50.0)
    )
    assert (await played(engine, certain_only=True)).data("pairs")[0]["pairs"] == 1


async def test_an_adapter_that_is_kept_is_found_again() -> None:
    engine = engine_of(PAIR, PAIR)
    await played(engine, keep="cache")
    outcome = await played(engine, keep="cache")
    assert len(engine.fitted) == 1
    assert final(engine).adapter == "adapter 1"
    assert outcome.data("adapter") == [{"kept": True}]
    # Other parameters are another adapter.
    await played(engine, keep="cache", rank=4)
    assert len(engine.fitted) == 2


async def test_what_one_client_says_about_sampling_is_not_in_an_adapter_that_another_finds() -> None:
    """Its pair is drawn as for all; what still shapes it is a part of the name."""
    engine = engine_of(PAIR, PAIR, PAIR, PAIR)
    strategy = TTSI(TTSIParams(keep="cache", threshold=1))
    first = await task_of(engine, bad_words=("snow",), top_k=1, repetition_penalty=5.0, extra={"a": 1})
    await play(strategy, first, Session(engine))
    pair = engine.requests[0].sampling
    assert (pair.bad_words, pair.top_k, pair.repetition_penalty, pair.extra) == ((), 0, 1.0, {})
    await play(strategy, await task_of(engine), Session(engine))
    assert len(engine.fitted) == 1
    named = replace(first, tool="rain")
    seeded = await task_of(engine, seed=7)
    for count, task in ((2, named), (3, seeded)):
        await play(strategy, task, Session(engine))
        assert len(engine.fitted) == count
    decoded = Session(engine, decode=lambda sampling, continues: replace(sampling, extra={"decoder": "on"}))
    await play(strategy, await task_of(engine), decoded)
    assert len(engine.fitted) == 4


async def test_pairs_that_the_context_has_no_room_for_are_not_shown() -> None:
    engine = engine_of(PAIR)
    task = await task_of(engine)
    engine.capabilities = replace(engine.capabilities, max_model_len=len(task.prompt) + 60)
    outcome = await play(TTSI(TTSIParams(mode="in_context")), task, Session(engine))
    assert outcome.answer == "it is"
    assert final(engine).prompt == task.prompt
    assert outcome.data("fallback")


@pytest.mark.parametrize("mode", ["self", "in_context"])
async def test_a_template_that_refuses_what_we_add_leaves_the_served_weights(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take no calls in a conversation, or no two answers in a row."""
    engine = engine_of(PAIR)
    task = await task_of(engine, [tool("rain")])
    render = engine.render

    async def strict(messages: Sequence[Any], tools: Any = None) -> Prompt:
        if any("tool_calls" in message for message in messages):
            raise ValueError("no calls here")
        return await render(messages, tools)

    monkeypatch.setattr(engine, "render", strict)
    outcome = await play(TTSI(TTSIParams(mode=mode, threshold=1)), task, Session(engine))  # type: ignore[arg-type]
    assert outcome.answer == "it is"
    assert "no calls here" in outcome.data("fallback")[0]["reason"]
    assert not engine.fitted


async def test_requests_without_tools_are_judged_by_samples() -> None:
    answers = iter(["4", "4", "5", "4", "6"])

    def script(request: Request) -> str:
        if request.sampling.grammar is not None:
            return TEXT_PAIR
        return next(answers, "it is")

    engine = engine_of()
    engine._script = script
    outcome = await played(engine, tools=None)
    (note,) = outcome.data("uncertainty")
    assert note["gap"] == pytest.approx(0.4)
    assert "extension" in note["by"]
    assert final(engine).adapter == "adapter 1"
    (example,) = engine.fitted[0][0]
    assert "".join(map(chr, example.token_ids[-example.learnt :])).startswith("4<end>")
    assert outcome.data("pairs")[0]["written"] == [{"question": "2 + 2?", "answer": "4"}]


async def test_samples_are_answers_of_the_served_weights() -> None:
    """None is computed twice: not where it is certain, and not where it learns nothing."""
    engine = engine_of()
    outcome = await played(engine, tools=None)
    assert outcome.data("uncertainty")[0]["gap"] == 1
    assert (outcome.answer, len(engine.requests)) == ("it is", 5)
    assert not engine.fitted
    engine = engine_of(TEXT_PAIR, losses=(NotTrained("it died"),))
    outcome = await played(engine, tools=None, threshold=1)
    assert outcome.data("fallback") == [{"reason": "it died"}]
    assert (outcome.answer, len(engine.requests)) == ("it is", 6)


async def test_samples_without_an_end_are_doubt() -> None:
    answers = iter(["4", *["it is so long that it has no end"] * 4])
    engine = engine_of()
    engine._script = lambda request: TEXT_PAIR if request.sampling.grammar is not None else next(answers, "4")
    outcome = await play(TTSI(), await task_of(engine, None, max_tokens=8), Session(engine))
    assert outcome.data("uncertainty")[0]["shares"] == {"4": pytest.approx(0.2)}
    assert outcome.data("uncertainty")[0]["gap"] == pytest.approx(0.2)


async def test_what_cannot_be_served_is_refused() -> None:
    engine = engine_of()
    task = await task_of(engine)

    def check(engine: CallingEngine = engine, task: Task = task, **params: Any) -> None:
        TTSI(TTSIParams(**params)).check(task, engine)

    check()
    with pytest.raises(InvalidTask, match="above 16"):
        check(rank=32)
    with pytest.raises(InvalidTask, match="continue"):
        check(task=replace(task, continues=True))
    plain = await task_of(engine, None)
    with pytest.raises(InvalidTask, match="certain_only"):
        check(task=plain, certain_only=True)
    with pytest.raises(InvalidTask, match="learn nothing"):
        check(certain_only=True, threshold=1)
    with pytest.raises(InvalidTask, match="temperature"):
        check(task=await task_of(engine, None, temperature=0.0))
    check(task=await task_of(engine, temperature=0.0))
    bare = engine_of()
    bare.capabilities = replace(bare.capabilities, names=frozenset({"tokens", "scores", "grammar"}))
    check(engine=bare, mode="in_context")
    with pytest.raises(InvalidTask, match="--training"):
        check(engine=bare)
    bare.capabilities = replace(bare.capabilities, names=frozenset({"tokens", "scores", "grammar", "training"}))
    with pytest.raises(InvalidTask, match="--teacher-url"):
        check(engine=bare, mode="teacher")


@pytest.mark.parametrize(
    "params",
    [{"threshold": 1.1}, {"pairs": 0}, {"rank": 65}, {"learning_rate": math.inf}, {"mode": "x"}, {"model": "y"}],
    ids=str,
)
def test_wrong_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TTSIParams(**params)


def test_a_call_is_a_message_of_the_assistant() -> None:
    assert calling("rain", {"city": "Rome"})["tool_calls"][0]["function"]["arguments"] == {"city": "Rome"}
