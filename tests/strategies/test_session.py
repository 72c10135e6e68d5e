"""Counting, budgets, deadlines and stopping, over an engine that says what the test wants."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from typing_extensions import override

from strategies.base import Event, Note, Strategy, Task, Thought
from strategies.call import Call
from strategies.engine import Capabilities, Cost, Generation, Message, Prompt, Sampling, Scored, Tool
from strategies.session import Exhausted, Session
from tests.strategies.scripted import (
    EOS,
    PATIENCE,
    Clock,
    EngineBroke,
    Reply,
    Request,
    ScriptedEngine,
    ScriptedStream,
    events_of,
    generation_of,
    play,
    prompt_of,
    task_of,
    token_id,
)

PROMPT = prompt_of([{"role": "user", "content": "hi"}])
HUNDRED = Sampling(max_tokens=100)
FIVE_SECONDS = 5.0


def granted(engine: ScriptedEngine) -> list[int]:
    """What each branch was allowed to say, in order of start."""
    return [request.sampling.max_tokens for request in engine.requests]


async def settle() -> None:
    """Lets every task come as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


# What a call gives.


async def test_pieces_come_token_by_token_from_all_branches_in_turn() -> None:
    engine = ScriptedEngine(["a b", "c d"])
    async with Session(engine) as session:
        call = session.sample(PROMPT, [HUNDRED, HUNDRED])
        pieces = [(piece.branch, piece.text, piece.finish_reason) async for piece in call]
    assert pieces == [(0, "a", None), (1, "c", None), (0, " b", "stop"), (1, " d", "stop")]
    assert [result.text for result in call.results] == ["a b", "c d"]


async def test_result_holds_all_of_a_branch() -> None:
    engine = ScriptedEngine([Reply("a b", stop_reason="END", logprobs=[[-0.5, -1.5], [-0.25]])])
    async with Session(engine) as session:
        result = (await session.call(PROMPT, Sampling(max_tokens=9, logprobs=1)).finish()).result
    assert (result.text, result.token_ids) == ("a b", (token_id("a"), token_id(" b")))
    assert (result.finish_reason, result.stop_reason, result.branch) == ("stop", "END", 0)
    assert result.logprobs is not None
    assert [{token: entry.logprob for token, entry in at.items()} for at in result.logprobs] == [
        {token_id("a"): -0.5, 1: -1.5},
        {token_id(" b"): -0.25},
    ]


async def test_result_has_no_logprobs_unless_asked() -> None:
    async with Session(ScriptedEngine(["a"])) as session:
        assert (await session.call(PROMPT, HUNDRED).finish()).result.logprobs is None


async def test_no_tokens_are_no_missing_logprobs() -> None:
    async with Session(ScriptedEngine([""])) as session:
        assert (await session.call(PROMPT, Sampling(max_tokens=9, logprobs=0)).finish()).result.logprobs == ()


async def test_result_as_far_as_it_has_come() -> None:
    engine = ScriptedEngine([Reply("a b c", hold_at=2)])
    async with Session(engine) as session:
        call = session.call(PROMPT, HUNDRED)
        finishing = asyncio.create_task(call.finish())
        await engine.until_held()
        assert (call.running, call.result.text, call.result.finish_reason) == (True, "a b", "abort")
        engine.release()
        await finishing
        assert (call.running, call.result.text, call.result.finish_reason) == (False, "a b c", "stop")


# Accounting.


@pytest.mark.parametrize("late", [False, True], ids=["told at once", "told late"])
async def test_a_prompt_counts_once_a_call_and_once_a_branch_for_the_engine(late: bool) -> None:
    first, second = Reply("a b", cached_tokens=5, tells_late=late), Reply("c", cached_tokens=7, tells_late=late)
    engine = ScriptedEngine([first, second, Reply("d e f"), "g"])
    longer = replace(PROMPT, token_ids=(*PROMPT.token_ids, 1, 2, 3))
    async with Session(engine) as session:
        await session.sample(PROMPT, [HUNDRED] * 3).finish()
        usage = replace(session.usage)
        await session.call(longer, HUNDRED).finish()
    n = len(PROMPT)
    assert (usage.calls, usage.branches, usage.completion_tokens) == (1, 3, 6)
    assert (usage.prompt_tokens, usage.engine_prompt_tokens) == (n, 3 * n)
    assert (usage.cached_tokens, usage.engine_cached_tokens) == (5, 12)
    usage = session.usage
    assert (usage.calls, usage.branches, usage.completion_tokens) == (2, 4, 7)
    assert (usage.prompt_tokens, usage.engine_prompt_tokens) == (2 * n + 3, 4 * n + 3)
    assert (usage.cached_tokens, usage.engine_cached_tokens) == (5, 12)


async def test_tokens_count_as_they_come() -> None:
    engine = ScriptedEngine([Reply("a b c", hold_at=2)])
    async with Session(engine) as session:
        async for piece in session.call(PROMPT, HUNDRED):
            if piece.text == " b":
                break
        assert session.usage.completion_tokens == 2


async def test_decoders_and_adapter_reach_every_branch() -> None:
    def decode(sampling: Sampling, continues: Generation | None) -> Sampling:
        assert continues is None
        return replace(sampling, extra={"decoder": sampling.seed})

    engine = ScriptedEngine(["a", "b", "c"])
    async with Session(engine, decode=decode, adapter="lora") as session:
        await session.call(PROMPT, replace(HUNDRED, seed=1)).finish()
        await session.sample(PROMPT, [replace(HUNDRED, seed=2), replace(HUNDRED, seed=3)]).finish()
    assert [request.sampling.extra for request in engine.requests] == [{"decoder": seed} for seed in (1, 2, 3)]
    assert [request.adapter for request in engine.requests] == ["lora"] * 3


async def test_on_call_is_told_once_of_each_call() -> None:
    told: list[Call] = []
    engine = ScriptedEngine(["a", "b", Reply("c", fail_at=0)])
    async with Session(engine, on_call=told.append) as session:
        first = await session.call(PROMPT, HUNDRED, role="draft").finish()
        assert told == [first]
        await first.close()
        await session.sample(PROMPT, [HUNDRED], role="sample").finish()
        with pytest.raises(EngineBroke):
            await session.call(PROMPT, HUNDRED, role="final").finish()
    assert [call.role for call in told] == ["draft", "sample", "final"]


async def test_renders_through_the_engine_and_tells_its_capabilities() -> None:
    engine = ScriptedEngine([], max_model_len=77)
    session = Session(engine)
    messages, tools = [{"role": "user", "content": "hi"}], [{"type": "function"}]
    assert await session.render(messages, tools) == prompt_of(messages, tools)
    assert engine.rendered == [(messages, tools)]
    assert session.capabilities == Capabilities(
        frozenset({"tokens", "logprobs", "grammar", "scores"}), 77, 20, 2**33, (EOS,)
    )


# The budget.


async def test_tokens_are_reserved_before_a_call_and_given_back_after_it() -> None:
    engine = ScriptedEngine([Reply("a b c", hold_at=1), "d", "e"])
    async with Session(engine, max_tokens=10) as session:
        first = asyncio.create_task(session.call(PROMPT, Sampling(max_tokens=8)).finish())
        await engine.until_held()
        await session.call(PROMPT, Sampling(max_tokens=8)).finish()
        engine.release()
        await first
        await session.call(PROMPT, HUNDRED).finish()
    # 8 of 10 are taken, which leaves 2, of which 1 comes back; then the first call gives 5 back: 10 - 3 - 1.
    assert granted(engine) == [8, 2, 6]
    assert session.usage.completion_tokens == 5


async def test_no_budget_leaves_the_sampling_alone() -> None:
    engine = ScriptedEngine(["a", "b"])
    async with Session(engine) as session:
        await session.sample(PROMPT, [HUNDRED, Sampling(max_tokens=7, min_tokens=5)]).finish()
    assert [request.sampling for request in engine.requests] == [HUNDRED, Sampling(max_tokens=7, min_tokens=5)]


async def test_branches_share_what_is_left_evenly() -> None:
    engine = ScriptedEngine(["a b c d e", "f", "g h", "i"])
    async with Session(engine, max_tokens=11) as session:
        call = await session.sample(PROMPT, [HUNDRED, Sampling(max_tokens=2), HUNDRED]).finish()
        assert [result.finish_reason for result in call.results] == ["length", "stop", "stop"]
        await session.call(PROMPT, HUNDRED).finish()
    assert granted(engine) == [3, 2, 3, 11 - 6]


async def test_fewer_branches_start_than_tokens_are_missing() -> None:
    engine = ScriptedEngine(["a b", "c d"])
    async with Session(engine, max_tokens=2) as session:
        call = await session.sample(PROMPT, [replace(HUNDRED, seed=seed) for seed in range(5)]).finish()
        assert [result.text for result in call.results] == ["a", "c"]
        assert (session.usage.branches, session.limit) == (2, "budget")
    assert [(request.sampling.seed, request.sampling.max_tokens) for request in engine.requests] == [(0, 1), (1, 1)]


async def test_min_tokens_never_exceeds_what_is_granted() -> None:
    engine = ScriptedEngine(["a"])
    async with Session(engine, max_tokens=3) as session:
        await session.call(PROMPT, Sampling(max_tokens=9, min_tokens=6)).finish()
    assert (engine.requests[0].sampling.max_tokens, engine.requests[0].sampling.min_tokens) == (3, 3)


async def test_a_used_up_budget_stops_the_next_call_before_it_starts() -> None:
    engine = ScriptedEngine(["a b", "never"])
    async with Session(engine, max_tokens=2) as session:
        assert (await session.call(PROMPT, HUNDRED).finish()).result.complete
        limits = [session.limit]
        with pytest.raises(Exhausted, match="budget") as raised:
            await session.call(PROMPT, HUNDRED).finish()
    assert [*limits, raised.value.limit, session.limit] == [None, "budget", "budget"]
    assert (len(engine.requests), session.usage.calls) == (1, 1)


@pytest.mark.parametrize(
    ("budget", "max_tokens", "limit"),
    [(2, 9, "budget"), (3, 9, None), (9, 2, None), (2, 2, None), (None, 2, None)],
    ids=["budget cut it", "it ended by itself", "the client's max_tokens cut it", "both did", "no budget"],
)
async def test_budget_is_the_limit_only_if_it_cut_the_call(
    budget: int | None, max_tokens: int, limit: str | None
) -> None:
    async with Session(ScriptedEngine(["a b c"]), max_tokens=budget) as session:
        await session.call(PROMPT, Sampling(max_tokens=max_tokens)).finish()
        assert session.limit == limit


async def test_limit_stays_when_later_calls_end_by_themselves() -> None:
    engine = ScriptedEngine(["a b c d e f", "g", "h"])
    async with Session(engine, max_tokens=10) as session:
        await session.sample(PROMPT, [HUNDRED, HUNDRED]).finish()
        assert session.limit == "budget"
        assert (await session.call(PROMPT, HUNDRED).finish()).result.complete
        assert session.limit == "budget"


# The deadline.


async def test_deadline_ends_running_branches_and_keeps_what_they_said(clock: Clock) -> None:
    engine = ScriptedEngine([Reply("a b c", hold_at=2, late="x"), "d e"])
    async with Session(engine, max_seconds=FIVE_SECONDS) as session:
        call = session.sample(PROMPT, [HUNDRED, HUNDRED])
        finishing = asyncio.create_task(call.finish())
        await engine.until_held()
        await clock.advance(FIVE_SECONDS)
        await finishing
        assert [(result.text, result.finish_reason) for result in call.results] == [("a bx", "abort"), ("d e", "stop")]
        assert (session.limit, session.usage.completion_tokens) == ("deadline", 5)
        assert (engine.stopped, engine.running) == ([0], set())
        with pytest.raises(Exhausted) as raised:
            await session.call(PROMPT, HUNDRED).finish()
    assert (raised.value.limit, len(engine.requests)) == ("deadline", 2)


async def test_deadline_holds_for_the_second_call_too(clock: Clock) -> None:
    engine = ScriptedEngine(["a", Reply("b", hold_at=0)])
    async with Session(engine, max_seconds=FIVE_SECONDS) as session:
        await session.call(PROMPT, HUNDRED).finish()
        await clock.advance(FIVE_SECONDS / 2)
        finishing = asyncio.create_task(session.call(PROMPT, HUNDRED).finish())
        await engine.until_held()
        await clock.advance(FIVE_SECONDS / 2)
        assert (await finishing).result == Generation(finish_reason="abort", prompt_tokens=len(PROMPT))
        assert session.limit == "deadline"


async def test_deadline_counts_from_the_start_of_the_session(clock: Clock) -> None:
    engine = ScriptedEngine([])
    session = Session(engine, max_seconds=FIVE_SECONDS)
    await clock.advance(FIVE_SECONDS)
    limits = [session.limit]
    with pytest.raises(Exhausted, match="deadline"):
        await session.call(PROMPT, HUNDRED).finish()
    assert [*limits, session.limit] == [None, "deadline"]
    assert not engine.requests


async def test_deadline_is_no_limit_if_it_ends_nothing(clock: Clock) -> None:
    engine = ScriptedEngine(["a b", "c"])
    async with Session(engine, max_seconds=FIVE_SECONDS) as session:
        call = session.call(PROMPT, HUNDRED)
        async for _ in call:
            await settle()  # The engine is done with the call long before whoever reads it is.
            await clock.advance(FIVE_SECONDS)
        assert call.result.complete
        assert (session.limit, engine.stopped) == (None, [])


async def test_a_session_that_is_over_does_not_wait_for_its_deadline() -> None:
    async with Session(ScriptedEngine(["a"]), max_seconds=1e6) as session:
        await session.call(PROMPT, HUNDRED).finish()
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None


# The context.


async def test_prompt_and_answer_fit_the_context() -> None:
    engine = ScriptedEngine(["a b c d"], max_model_len=len(PROMPT) + 3)
    async with Session(engine, max_tokens=50) as session:
        result = (await session.call(PROMPT, Sampling(max_tokens=9, min_tokens=4)).finish()).result
    assert (result.text, result.finish_reason) == ("a b c", "length")
    assert (engine.requests[0].sampling.max_tokens, engine.requests[0].sampling.min_tokens) == (3, 3)


async def test_a_prompt_that_leaves_no_room_ends_the_run() -> None:
    engine = ScriptedEngine(["a"], max_model_len=len(PROMPT))
    async with Session(engine, max_tokens=50) as session:
        with pytest.raises(Exhausted, match="context") as raised:
            await session.call(PROMPT, HUNDRED).finish()
        assert (raised.value.limit, session.limit, engine.requests) == ("context", "context", [])
        one_less = Prompt(PROMPT.token_ids[1:])
        assert (await session.call(one_less, HUNDRED).finish()).result.text == "a"


# Stopping.


async def test_stop_of_one_branch_leaves_the_others() -> None:
    engine = ScriptedEngine(["a b c", Reply("d e f", hold_at=2, late="late words"), "g h i", "j"])
    async with Session(engine, max_tokens=60) as session:
        call = session.sample(PROMPT, [HUNDRED] * 3)
        async for piece in call:
            if piece.text == " e":
                await call.stop(1)
        texts = [(result.text, result.finish_reason) for result in call.results]
        assert texts == [("a b c", "stop"), ("d elate words", "abort"), ("g h i", "stop")]
        assert (engine.stopped, session.usage.completion_tokens, session.limit) == ([1], 10, None)
        await session.call(PROMPT, HUNDRED).finish()
    assert granted(engine) == [20, 20, 20, 50]


async def test_stop_of_all_branches_spares_those_that_have_ended() -> None:
    engine = ScriptedEngine(["a", Reply("b c", hold_at=1), Reply("d e", hold_at=0)])
    async with Session(engine) as session:
        call = session.sample(PROMPT, [HUNDRED] * 3)
        finishing = asyncio.create_task(call.finish())
        await engine.until_held(2)
        await call.stop()
        await finishing
        await call.stop()
    assert [(result.text, result.finish_reason) for result in call.results] == [
        ("a", "stop"),
        ("b", "abort"),
        ("", "abort"),
    ]
    assert (engine.stopped, engine.running) == ([1, 2], set())


async def test_stop_before_the_first_token() -> None:
    engine = ScriptedEngine([Reply("a", hold_at=0, cached_tokens=2)])
    async with Session(engine) as session:
        call = session.call(PROMPT, HUNDRED)
        finishing = asyncio.create_task(call.finish())
        await engine.until_held()
        await call.stop()
        assert (await finishing).result == Generation(finish_reason="abort", prompt_tokens=len(PROMPT))
        usage = session.usage
        assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (0, 0, 0)


async def test_stop_before_the_engine_starts() -> None:
    engine = ScriptedEngine([Reply("a", silent=True), "b"])
    async with Session(engine) as session:
        call = await session.sample(PROMPT, [HUNDRED, HUNDRED]).finish()
        assert [(r.text, r.finish_reason) for r in call.results] == [("", "abort"), ("b", "stop")]
        usage = session.usage
        assert (usage.engine_prompt_tokens, usage.completion_tokens) == (len(PROMPT), 1)


# Failing.


async def test_an_engine_error_stops_the_other_branches_and_propagates() -> None:
    engine = ScriptedEngine([Reply("a b", hold_at=1), Reply("c d", fail_at=1), Reply("e", hold_at=0), "f"])
    async with Session(engine, max_tokens=60) as session:
        with pytest.raises(EngineBroke, match="branch 1"):
            await session.sample(PROMPT, [HUNDRED] * 3).finish()
        assert engine.running == set()
        assert session.usage.completion_tokens == 2
        assert isinstance(session.failures[0], EngineBroke)
        await session.call(PROMPT, HUNDRED).finish()
    assert (granted(engine)[-1], session.limit) == (58, None)


async def test_a_refused_conversation_is_the_engines_failure() -> None:
    class Refusing(ScriptedEngine):
        @override
        async def render(self, messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> Prompt:
            raise ValueError("the template refuses")

    session = Session(Refusing([]))
    with pytest.raises(ValueError, match="the template refuses") as raised:
        await session.render([])
    assert session.failures == [raised.value]


async def test_a_strategys_own_error_is_not_the_engines() -> None:
    class Faulty(Talk):
        @override
        async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
            async for event in super().run(task, engine):
                yield event
                raise ZeroDivisionError

    session = Session(ScriptedEngine(["a b"]))
    with pytest.raises(ZeroDivisionError):
        await play(Faulty(), task_of(), session)
    assert session.failures == []


# Leaving.


@pytest.mark.parametrize("hasty", [False, True])
async def test_cancelling_the_consumer_stops_every_branch(hasty: bool) -> None:
    first = Reply("a b", hold_at=1, late="x", hasty=hasty)
    engine = ScriptedEngine([first, Reply("c d", hold_at=1, hasty=hasty), "f"])
    async with Session(engine, max_tokens=60) as session:
        consuming = asyncio.create_task(session.sample(PROMPT, [HUNDRED] * 2).finish())
        await engine.until_held(2)
        consuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consuming
        assert (engine.running, sorted(engine.stopped)) == (set(), [0, 1])
        assert session.usage.completion_tokens == 3
        await session.call(PROMPT, HUNDRED).finish()
    assert granted(engine)[-1] == 57


class SlowToStop(ScriptedEngine):
    """Takes an abort, and ends its branches only when released."""

    def __init__(self) -> None:
        super().__init__([Reply("a b", hold_at=1)])
        self.stopping = asyncio.Event()
        self.may_stop = asyncio.Event()

    @override
    def generate(self, prompt: Prompt, sampling: Sampling, adapter: Any = None) -> ScriptedStream:
        stream = super().generate(prompt, sampling, adapter)
        stop = stream.stop

        async def slow() -> None:
            self.stopping.set()
            await self.may_stop.wait()
            await stop()

        stream.stop = slow  # type: ignore[method-assign]
        return stream


async def test_a_second_cancellation_does_not_leave_branches_behind() -> None:
    engine = SlowToStop()
    told: list[Call] = []

    async def request() -> None:
        async with Session(engine, on_call=told.append) as session:
            await session.call(PROMPT, HUNDRED).finish()

    consuming = asyncio.create_task(request())
    await engine.until_held()
    consuming.cancel()
    await engine.stopping.wait()
    consuming.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    engine.may_stop.set()
    with pytest.raises(asyncio.CancelledError):
        await consuming
    assert (engine.running, len(told)) == (set(), 1)


async def test_leaving_the_session_ends_a_call_that_nobody_reads_on() -> None:
    engine = ScriptedEngine([Reply("a b", hold_at=1)])
    async with Session(engine) as session:
        call = session.call(PROMPT, HUNDRED)
        pieces = aiter(call)
        assert (await anext(pieces)).text == "a"
        assert engine.running == {0}
    assert engine.running == set()
    assert call.result.finish_reason == "abort"


async def test_breaking_off_gives_the_tokens_back() -> None:
    engine = ScriptedEngine([Reply("a b", hold_at=1), "c"])
    async with Session(engine, max_tokens=10) as session:
        async for _ in session.call(PROMPT, HUNDRED):
            break
        await settle()
        assert engine.running == set()
        await session.call(PROMPT, HUNDRED).finish()
    assert granted(engine) == [10, 9]


# Runs.


class Talk(Strategy):
    """Makes calls of one branch until something stops it; keeps each result."""

    name = "talk"
    summary = "Talks."
    keeps = True

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        while True:
            call = engine.call(task.prompt, task.sampling)
            async for piece in call:
                yield Thought(piece.text, "draft")
            if self.keeps:
                engine.keep(call.result)


class Forgetful(Talk):
    """Keeps nothing."""

    keeps = False


async def test_closing_a_run_stops_the_engine() -> None:
    engine = ScriptedEngine([Reply("a b", hold_at=1)])
    async with Session(engine) as session:
        events = events_of(Talk(), task_of(), session)
        assert await anext(events) == Thought("a", "draft")
        await events.aclose()
        assert session.usage.completion_tokens == 1
    assert engine.running == set()


async def test_closing_a_run_alone_stops_the_engine_soon() -> None:
    engine = ScriptedEngine([Reply("a b", hold_at=1)])
    events = events_of(Talk(), task_of(), Session(engine))
    await anext(events)
    assert engine.running == {0}
    await events.aclose()
    await settle()
    assert engine.running == set()


async def test_cancelling_a_run_stops_the_engine() -> None:
    engine = ScriptedEngine([Reply("a b", hold_at=1)])
    running = asyncio.create_task(play(Talk(), task_of(), Session(engine)))
    await engine.until_held()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert engine.running == set()


async def test_an_engine_error_ends_a_run() -> None:
    with pytest.raises(EngineBroke):
        await play(Talk(), task_of(), Session(ScriptedEngine([Reply("a b", fail_at=1)])))


async def test_a_limit_yields_what_was_kept() -> None:
    outcome = await play(Talk(), task_of(), Session(ScriptedEngine(["a b", "c d"]), max_tokens=4))
    assert outcome.events[-2] == Note(
        "stopped", "the budget is used up; this is the best answer so far", {"limit": "budget"}
    )
    assert [piece.token_ids for piece in outcome.pieces] == [generation_of("c d").token_ids]
    assert (outcome.answer, outcome.finish_reason) == ("c d", "stop")


async def test_a_limit_that_cut_what_was_kept_says_so(clock: Clock) -> None:
    engine = ScriptedEngine([Reply("a b", hold_at=1)])
    running = asyncio.create_task(play(Talk(), task_of(), Session(engine, max_seconds=FIVE_SECONDS)))
    await engine.until_held()
    await clock.advance(FIVE_SECONDS)
    outcome = await running
    assert (outcome.answer, outcome.finish_reason) == ("a", "length")
    assert outcome.data("stopped") == [{"limit": "deadline"}]


async def test_a_limit_with_nothing_kept_yields_an_empty_answer() -> None:
    outcome = await play(Forgetful(), task_of(), Session(ScriptedEngine(["a b"]), max_tokens=2))
    assert (outcome.answer, outcome.finish_reason, len(outcome.pieces)) == ("", "length", 1)


# The scripted engine itself.


async def test_the_scripted_engine_sees_each_request() -> None:
    seen: list[Request] = []

    def script(request: Request) -> str:
        seen.append(request)
        return request.asked

    engine = ScriptedEngine(script)
    async with Session(engine) as session:
        talk = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}]
        prompt = await session.render([*talk, {"role": "user", "content": "two words"}])
        assert (await session.call(prompt, HUNDRED).finish()).result.text == "two words"
    assert prompt.token_ids[: len(prompt_of(talk[:1]))] == prompt_of(talk[:1]).token_ids
    assert seen[0].text == "<user>one<end><assistant>1<end><user>two words<end><assistant>"


# Scores.


async def test_scores_take_of_the_budget_and_are_counted() -> None:
    engine = ScriptedEngine([], scores=lambda prompt, token: -float(token))
    async with Session(engine, max_tokens=5) as session:
        scores = await session.score(PROMPT, [(1, 2), (3,)])  # At most five, and it took three.
        assert [score.logprobs for score in scores] == [(-1.0, -2.0), (-3.0,)]
        usage = session.usage
        assert (usage.calls, usage.branches, usage.completion_tokens) == (1, 3, 3)
        assert usage.prompt_tokens == len(PROMPT) + 2  # A token that is sampled is no prompt.
        assert usage.engine_prompt_tokens == 3 * len(PROMPT) + 2
        with pytest.raises(Exhausted, match="budget"):
            await session.score(PROMPT, [(1, 2)])
        assert len(await session.score(PROMPT, [(1,)])) == 1


async def test_what_a_score_took_until_the_deadline_is_counted(clock: Clock) -> None:
    class Slow(ScriptedEngine):
        @override
        async def score(
            self,
            prompt: Prompt,
            continuations: Sequence[Sequence[int]],
            adapter: Any = None,
            *,
            on_cost: Callable[[Cost], None] = lambda cost: None,
        ) -> Sequence[Scored]:
            on_cost(Cost(len(prompt), 4, 1))
            await asyncio.sleep(PATIENCE)
            return []

    async with Session(Slow([]), max_seconds=1) as session:
        scoring = asyncio.ensure_future(session.score(PROMPT, [(1,), (2,)]))
        await asyncio.sleep(0)
        await clock.advance(2)
        with pytest.raises(Exhausted, match="deadline"):
            await scoring
        assert (session.usage.completion_tokens, session.usage.engine_cached_tokens) == (1, 4)


# Branches that go on by themselves.


async def test_what_is_left_is_shared_by_the_branches_that_go_on() -> None:
    """Also by one whose tokens are reserved for its next step only."""
    engine = ScriptedEngine(lambda request: Reply(" ".join("abcdefgh"), hold_at=1))
    async with Session(engine, max_tokens=30) as session:
        session.side_by_side = 3
        small, large = replace(HUNDRED, max_tokens=4), replace(HUNDRED, max_tokens=50)
        calls = [session.call(PROMPT, sampling) for sampling in (small, large, large, large)]
        runs = [asyncio.ensure_future(call.finish()) for call in calls[:3]]
        await engine.until_held(3)
        # 30 for three; then 26 and what the first has left of its 4, for three; then 16 and what is left of those.
        assert granted(engine) == [4, 10, 10]
        engine.release()
        await asyncio.gather(*runs)
        session.side_by_side = 1
        await calls[3].finish()
        assert granted(engine)[3] == 30 - 4 - 8 - 8


@pytest.mark.parametrize("turns", range(12))
async def test_adapters_are_dropped_whenever_the_client_leaves(turns: int) -> None:
    """However often it is told to end while it ends."""
    engine = ScriptedEngine(lambda request: "so")
    dropped = []

    async def drop(adapter: Any) -> None:
        await asyncio.sleep(0)
        dropped.append(adapter)

    engine.drop = drop  # type: ignore[method-assign]

    async def use() -> None:
        async with Session(engine) as session:
            session._use("adapter 1")
            await session.call(PROMPT, Sampling(max_tokens=4)).finish()

    task = asyncio.ensure_future(use())
    for turn in range(40):
        if turn >= turns and not task.done():
            task.cancel()
        await asyncio.sleep(0)
    assert task.done()
    assert dropped in (["adapter 1"], []) if turns == 0 else dropped == ["adapter 1"]
