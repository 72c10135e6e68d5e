"""Every branch of the loop, on an engine that says what is written here."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from strategies.base import InvalidTask
from strategies.iterative_deepening import IterativeDeepening, IterativeDeepeningParams
from strategies.session import Session
from tests.strategies.scripted import (
    EOS,
    Outcome,
    Reply,
    Request,
    ScriptedEngine,
    generation_of,
    play,
    task_of,
    token_id,
)

WAIT = " wait, no!"
"""A trigger of two tokens."""


def strategy(**params: object) -> IterativeDeepening:
    chosen = {"samples": 1, "first_budget": 4, "max_rounds": 2, "trigger": WAIT, **params}
    return IterativeDeepening(IterativeDeepeningParams(**chosen))  # type: ignore[arg-type]


async def played(engine: ScriptedEngine, chosen: IterativeDeepening, **sampling: Any) -> Outcome:
    session = Session(engine)
    return await play(chosen, task_of(**sampling), session)


def words(count: int, name: str = "w") -> str:
    return " ".join(f"{name}{i}" for i in range(count))


def prompts(engine: ScriptedEngine, task_tokens: int) -> list[int]:
    """Of each request, the tokens of the answer so far."""
    return [len(request.prompt) - task_tokens for request in engine.requests]


TASK_TOKENS = len(task_of().prompt)


async def test_it_doubts_at_growing_budgets() -> None:
    cached = TASK_TOKENS + 4
    replies: list[Reply | str] = [
        words(50, "a"),
        Reply(words(50, "b"), cached_tokens=cached),
        Reply(words(3, "c"), end=EOS),
    ]
    engine = ScriptedEngine(replies)
    outcome = await played(engine, strategy())
    first, second = words(4, "a"), words(2, "b")
    assert outcome.answer == f"{first}{WAIT}{second}{WAIT}{words(3, 'c')}"
    assert outcome.finish_reason == "stop"
    assert [request.sampling.max_tokens for request in engine.requests] == [4, 2, 90]
    assert prompts(engine, TASK_TOKENS) == [0, 6, 10]
    notes = outcome.data("trigger")
    assert [(note["round"], note["tokens"], note["finished"]) for note in notes] == [(1, 4, False), (2, 8, False)]
    assert [note["recomputed"] for note in notes] == [2, TASK_TOKENS + 10]


async def test_continuations_are_on_token_ids() -> None:
    engine = ScriptedEngine([words(50, "a"), "done"])
    await played(engine, strategy(max_rounds=1))
    task, (first, second) = task_of(), engine.requests
    said = [token_id(word if i == 0 else f" {word}") for i, word in enumerate(words(4, "a").split())]
    assert first.prompt == task.prompt
    assert second.prompt.token_ids == (*task.prompt.token_ids, *said, *engine.encode(WAIT))


async def test_an_answer_that_ends_by_itself_is_accepted() -> None:
    engine = ScriptedEngine([Reply("it is 42", end=EOS)])
    outcome = await played(engine, strategy())
    assert (outcome.answer, outcome.finish_reason) == ("it is 42", "stop")
    assert not outcome.data("trigger")
    assert len(engine.requests) == 1


async def test_unless_it_is_reopened() -> None:
    engine = ScriptedEngine([Reply("it is", end=EOS), Reply("b", end=EOS), Reply("c", end=EOS)])
    outcome = await played(engine, strategy(reopen_finished=True))
    assert outcome.answer == f"it is{WAIT}b{WAIT}c"
    # The token that ended it is no part of what goes on.
    assert all(EOS not in request.prompt.token_ids for request in engine.requests)
    assert [note["finished"] for note in outcome.data("trigger")] == [True, True]


async def test_budgets_grow_also_where_answers_end_before_them() -> None:
    engine = ScriptedEngine(lambda request: Reply("so", end=EOS))
    await played(engine, strategy(reopen_finished=True, max_rounds=4), max_tokens=50)
    # 4, 8, 16, 32 in all, and then as many as there may be; what is there already, and the trigger, taken off.
    ends = [len(one.prompt) - TASK_TOKENS + one.sampling.max_tokens for one in engine.requests]
    assert ends == [4, 8, 16, 32, 50]


async def test_a_reopened_answer_that_comes_to_no_end_is_not_the_answer() -> None:
    engine = ScriptedEngine([Reply("it is 42", end=EOS), words(99)])
    outcome = await played(engine, strategy(reopen_finished=True, max_rounds=1), max_tokens=20)
    assert (outcome.answer, outcome.finish_reason) == ("it is 42", "stop")


@pytest.mark.parametrize("budget", [4, 5])
async def test_nor_is_one_that_a_budget_ends(budget: int) -> None:
    engine = ScriptedEngine([Reply("it is 42", end=EOS), words(99)])
    session = Session(engine, max_tokens=budget)
    outcome = await play(strategy(reopen_finished=True), task_of(), session)
    assert (outcome.answer, outcome.finish_reason) == ("it is 42", "stop")
    # A trigger that nothing came of is none.
    assert len(outcome.data("trigger")) == len(engine.requests) - 1 == session.rounds == budget - 4


async def test_a_stop_string_is_the_clients_word() -> None:
    engine = ScriptedEngine([Reply("it is", stop_reason="42")])
    outcome = await played(engine, strategy(reopen_finished=True), stop=("42",))
    assert (outcome.answer, len(engine.requests)) == ("it is", 1)


async def test_a_reopened_answer_may_have_ended_at_a_stop_token() -> None:
    engine = ScriptedEngine([Reply("it is", stop_reason=7, end=7), Reply("so", end=EOS)])
    outcome = await played(engine, strategy(reopen_finished=True, max_rounds=1), stop_token_ids=(7,))
    assert outcome.answer == f"it is{WAIT}so"


async def test_a_stop_string_over_two_rounds() -> None:
    """The client gets nothing of it, though no call alone says it, and nothing of what came behind it."""
    engine = ScriptedEngine([words(50), words(50, "b")])
    outcome = await played(engine, strategy(growth=4), stop=(" no!b0 b1",), logprobs=0)
    assert (outcome.answer, outcome.finish_reason, len(engine.requests)) == (f"{words(4)} wait,", "stop", 2)
    (piece,) = outcome.pieces
    assert (len(piece.token_ids), piece.logprobs and len(piece.logprobs), piece.given) == (8, 8, 2)
    assert engine.stopped == [1]  # At once: the rest of the round is not made.


async def test_a_sentence_that_would_make_a_stop_string() -> None:
    """Is not said."""
    engine = ScriptedEngine([words(50), words(50, "b")])
    outcome = await played(engine, strategy(), stop=("w3 wait,",), max_tokens=20)
    assert outcome.answer == words(4) + words(16, "b")
    assert not outcome.data("trigger")


async def test_stop_strings_within_min_tokens_are_none() -> None:
    """As in one plain call: neither one over two rounds, nor one that the engine let pass in the second."""
    engine = ScriptedEngine([words(50), words(50, "b")])
    outcome = await played(engine, strategy(max_rounds=1), stop=("no!b0", "b3"), min_tokens=15, max_tokens=20)
    assert (outcome.answer, outcome.finish_reason) == (f"{words(4)}{WAIT}{words(14, 'b')}", "length")


async def test_a_stop_string_over_two_calls_without_a_trigger() -> None:
    engine = ScriptedEngine([words(50), words(50, "b")])
    outcome = await played(engine, strategy(), stop=("w3b0",), max_tokens=6)
    assert (outcome.answer, outcome.finish_reason) == (words(4)[:-2], "stop")
    engine = ScriptedEngine([words(50), words(50, "b")])
    outcome = await played(engine, strategy(), stop=("w3b0",), max_tokens=6, include_stop_str_in_output=True)
    assert outcome.answer == words(4) + "b0"


def test_a_trigger_with_a_stop_string_is_refused() -> None:
    with pytest.raises(InvalidTask, match="stop string 'wait'"):
        strategy().check(task_of(stop=("wait",)), ScriptedEngine([]))


async def test_the_clients_max_tokens_bound_the_whole() -> None:
    engine = ScriptedEngine(lambda request: words(99, f"r{request.number}-"))
    outcome = await played(engine, strategy(), max_tokens=11)
    assert sum(len(piece.token_ids) for piece in outcome.pieces) == 11
    assert outcome.finish_reason == "length"
    assert [request.sampling.max_tokens for request in engine.requests] == [4, 2, 1]


@pytest.mark.parametrize("most", [1, 3, 4])
async def test_a_first_budget_that_is_all_there_is(most: int) -> None:
    engine = ScriptedEngine([words(99)])
    outcome = await played(engine, strategy(), max_tokens=most)
    assert (outcome.answer, outcome.finish_reason) == (words(most), "length")
    assert not outcome.data("trigger")


@pytest.mark.parametrize("most", [5, 6])
async def test_no_trigger_that_would_not_fit(most: int) -> None:
    """It goes on to its end as if there were none."""
    engine = ScriptedEngine([words(99, "a"), words(99, "b")])
    outcome = await played(engine, strategy(), max_tokens=most)
    assert outcome.answer == words(4, "a") + words(most - 4, "b")
    assert not outcome.data("trigger")
    assert len(engine.requests) == 2


async def test_a_trigger_that_never_fits_costs_one_call() -> None:
    engine = ScriptedEngine(lambda request: words(99))
    await played(engine, strategy(first_budget=1, growth=1.05, trigger=" t" * 60), max_tokens=40, seed=5)
    assert [request.sampling.max_tokens for request in engine.requests] == [1, 39]
    assert len({request.sampling.seed for request in engine.requests}) == 2


@pytest.mark.parametrize("growth", [math.nextafter(1, 2), 1 + 1e-10, 1.0001])
async def test_the_least_growth(growth: float) -> None:
    """Is no endless loop."""
    engine = ScriptedEngine(lambda request: words(9999))
    await played(engine, strategy(first_budget=1, growth=growth, max_rounds=16), max_tokens=5000)
    assert len(engine.requests) == 17
    ends = [len(one.prompt) - TASK_TOKENS + one.sampling.max_tokens for one in engine.requests]
    assert ends == sorted(set(ends))
    assert ends[-1] == 5000


async def test_a_trigger_longer_than_the_growth() -> None:
    """Budgets grow until there is room behind it."""
    engine = ScriptedEngine(lambda request: words(99))
    await played(engine, strategy(first_budget=1, trigger=" a b c d e", max_rounds=1), max_tokens=40)
    assert [request.sampling.max_tokens for request in engine.requests] == [1, 34]
    engine = ScriptedEngine(lambda request: words(99))
    await played(engine, strategy(first_budget=1, trigger=" a b c d e"), max_tokens=40)
    assert [request.sampling.max_tokens for request in engine.requests] == [1, 2, 27]


async def test_without_rounds_it_is_one_plain_answer() -> None:
    engine = ScriptedEngine([words(30)])
    outcome = await played(engine, strategy(max_rounds=0))
    assert outcome.answer == words(30)
    assert len(engine.requests) == 1


async def test_a_thought_is_doubted_before_its_end() -> None:
    engine = ScriptedEngine([Reply("<think> hm </think> 41 really so", end=EOS), Reply("ah </think> 42", end=EOS)])
    outcome = await played(engine, strategy(think_end=" </think>", max_rounds=1))
    assert outcome.answer == f"<think> hm{WAIT}ah </think> 42"
    (note,) = outcome.data("trigger")
    assert (note["tokens"], note["dropped"]) == (4, 2)


async def test_a_thought_that_ends_in_other_tokens() -> None:
    """As a tokenizer may write it behind a space: then its text tells."""
    engine = ScriptedEngine([Reply("hm hm </ think> 41", end=EOS), Reply("ah", end=EOS)])
    chosen = strategy(first_budget=9, think_end="</ think>", max_rounds=1, reopen_finished=True)
    outcome = await played(engine, chosen)
    assert outcome.answer == f"hm hm{WAIT}ah"


async def test_a_thought_whose_end_a_budget_cuts() -> None:
    engine = ScriptedEngine([Reply("hm hm hm </ think> 41", end=EOS), Reply("ah", end=EOS)])
    outcome = await played(engine, strategy(think_end="</ think>", max_rounds=1))
    assert outcome.answer == f"hm hm hm{WAIT}ah"
    assert outcome.data("trigger")[0]["dropped"] == 1


async def test_a_thought_may_end_early_again_and_again() -> None:
    """Budgets grow all the same, and their sum bounds what is made anew."""
    engine = ScriptedEngine(lambda request: "t </think> " + words(999))
    session = Session(engine)
    chosen = strategy(first_budget=8, think_end=" </think>", max_rounds=16)
    outcome = await play(chosen, task_of(max_tokens=300), session)
    assert [note["tokens"] for note in outcome.data("trigger")] == [8, 16, 32, 64, 128, 256]
    assert session.usage.completion_tokens <= 8 + 16 + 32 + 64 + 128 + 256 + 300
    (piece,) = outcome.pieces
    # Six sentences are left in it, of two tokens each; and no more of it is hidden than there is.
    assert piece.given == 12
    assert len(piece.token_ids) - piece.given <= session.usage.completion_tokens


async def test_a_sentence_is_no_end_of_a_thought() -> None:
    engine = ScriptedEngine(lambda request: words(99, f"r{request.number}-"))
    with pytest.raises(ValidationError, match="think_end"):
        strategy(trigger=" no </think> no")
    outcome = await played(engine, strategy(trigger=" wait, no!", think_end=" no?"), max_tokens=30)
    assert [note["dropped"] for note in outcome.data("trigger")] == [0, 0]


async def test_no_sentence_within_a_character() -> None:
    class Engine(ScriptedEngine):
        """In which tokens X and Y are halves of one character."""

        def decode(self, token_ids: Sequence[int]) -> str:
            return super().decode(token_ids).replace(" X Y", " é").replace(" X", " \ufffd")

    engine = Engine([Reply("a b c X Y d"), Reply("done", end=EOS)])
    outcome = await played(engine, strategy(max_rounds=1))
    said = [token_id(word) for word in ("a", " b", " c")]
    assert engine.requests[1].prompt.token_ids == (*task_of().prompt.token_ids, *said, *engine.encode(WAIT))
    assert outcome.data("trigger")[0]["dropped"] == 1


async def test_an_accepted_answer_behind_a_thought_stays() -> None:
    engine = ScriptedEngine([Reply("<think> </think> 42", end=EOS)])
    outcome = await played(engine, strategy(think_end=" </think>", first_budget=9))
    assert outcome.answer == "<think> </think> 42"


async def test_samples_go_on_by_themselves() -> None:
    """While one is still in its first round, others are through theirs."""

    def script(request: Request) -> Reply | str:
        if len(request.prompt) == TASK_TOKENS:
            return Reply(words(9, "a"), hold_at=2) if request.number == 0 else words(9, "b")
        return Reply(f"answer {request.number}", end=EOS)

    engine = ScriptedEngine(script)
    session = Session(engine)
    chosen = strategy(samples=3)
    seen: list[str] = []
    async with session:
        async for event in chosen.run(task_of(), session):
            seen.append(type(event).__name__)
            if len(engine.requests) == 5:
                engine.release()
    assert [len(request.prompt) > TASK_TOKENS for request in engine.requests] == [False] * 3 + [True] * 3


async def test_a_vote_decides() -> None:
    def script(request: Request) -> Reply:
        return Reply("it is \\boxed{41}" if request.number == 0 else "so \\boxed{42}", end=EOS)

    outcome = await played(ScriptedEngine(script), strategy(samples=3, first_budget=50))
    assert outcome.answer == "so \\boxed{42}"
    (result,) = outcome.data("result")
    assert result["votes"] == {"41": 1, "42": 2}


async def test_a_scorer_decides() -> None:
    def script(request: Request) -> Reply:
        values = [[-3.0, -2.0, -1.0][request.number]] * 2
        return Reply(f"answer {request.number}", logprobs=[[value] for value in values])

    outcome = await played(ScriptedEngine(script), strategy(samples=3, first_budget=50, aggregate="mean_logprob"))
    assert outcome.answer == "answer 2"
    assert [note["score"] for note in outcome.data("score")] == [-3.0, -2.0, -1.0]


async def test_words_of_the_trigger_have_no_score_and_are_not_counted() -> None:
    engine = ScriptedEngine([words(9), Reply("done", finish_reason="stop")])
    session = Session(engine)
    outcome = await play(strategy(max_rounds=1, aggregate="mean_logprob"), task_of(logprobs=0), session)
    (piece,) = outcome.pieces
    assert piece.logprobs is not None
    assert [bool(entry) for entry in piece.logprobs] == [True] * 4 + [False] * 2 + [True]
    assert piece.given == 2
    assert session.usage.completion_tokens == 5
    assert outcome.data("score")[0]["score"] == pytest.approx(-1)


async def test_seeds_differ_by_round_and_sample() -> None:
    engine = ScriptedEngine(lambda request: words(99))
    await played(engine, strategy(samples=2), seed=1, max_tokens=20)
    seeds = [request.sampling.seed for request in engine.requests]
    assert len(set(seeds)) == len(seeds) == 6


async def test_min_tokens_hold_for_the_whole() -> None:
    engine = ScriptedEngine(lambda request: words(99))
    await played(engine, strategy(), min_tokens=7)
    assert [request.sampling.min_tokens for request in engine.requests] == [4, 1, 0]


async def test_a_budget_ends_a_sample_and_what_there_is_is_the_answer() -> None:
    engine = ScriptedEngine(lambda request: words(99, f"r{request.number}-"))
    session = Session(engine, max_tokens=9)
    outcome = await play(strategy(samples=2), task_of(), session)
    assert session.limit == "budget"
    assert outcome.finish_reason == "length"
    assert session.usage.completion_tokens == 9
    assert outcome.answer.startswith("r0-0")


async def test_a_budget_is_for_all_samples() -> None:
    """None takes what the others need to come to an end."""
    engine = ScriptedEngine(lambda request: words(999) if len(request.prompt) == TASK_TOKENS else Reply("42", end=EOS))
    session = Session(engine, max_tokens=400)
    outcome = await play(strategy(samples=4, first_budget=16, max_rounds=1), task_of(max_tokens=5000), session)
    assert outcome.data("result")[0]["votes"].popitem()[1] == 4
    assert len(engine.requests) == 8
    assert {request.sampling.max_tokens for request in engine.requests[4:]} == {(400 - 4 * 16) // 4}
    assert (session.limit, session.side_by_side) == (None, 0)


async def test_samples_that_end_at_different_times_have_their_shares_too() -> None:
    """Of the first one that goes on, the others are still in their first round."""

    def script(request: Request) -> Reply | str:
        first = len(request.prompt) == TASK_TOKENS
        return Reply("so", end=EOS) if first and request.number == 0 else words(999)

    engine = ScriptedEngine(script)
    session = Session(engine, max_tokens=400)
    chosen = strategy(samples=4, first_budget=16, max_rounds=1, reopen_finished=True)
    await play(chosen, task_of(max_tokens=5000), session)
    granted = [request.sampling.max_tokens for request in engine.requests[4:]]
    assert len(granted) == 4
    assert max(granted) - min(granted) <= 16
    assert 400 - 2 - 3 * 16 - 4 < sum(granted) <= 400 - 2 - 3 * 16


async def test_a_round_in_which_nothing_is_said_is_none() -> None:
    """A limit came while its prompt was computed: what is there is the answer, without the sentence."""
    engine = ScriptedEngine([words(50, "a"), Reply(silent=True)])
    session = Session(engine)
    outcome = await play(strategy(), task_of(), session)
    assert (outcome.answer, outcome.finish_reason, session.rounds) == (words(4, "a"), "length", 0)
    assert not outcome.data("trigger")


async def test_a_budget_of_one_token() -> None:
    session = Session(ScriptedEngine(lambda request: words(99)), max_tokens=1)
    outcome = await play(strategy(samples=3), task_of(), session)
    assert (outcome.answer, outcome.finish_reason) == ("w0", "length")


async def test_no_room_in_the_context() -> None:
    engine = ScriptedEngine(lambda request: words(99), max_model_len=TASK_TOKENS + 5)
    session = Session(engine)
    outcome = await play(strategy(), task_of(), session)
    assert session.limit == "context"
    assert (outcome.answer, outcome.finish_reason) == (words(4), "length")


@pytest.mark.parametrize("growth", [1.1, 1.5, 2.0, 3.0, 16.0])
@pytest.mark.parametrize("first", [1, 3, 17, 64])
@pytest.mark.parametrize("trigger", [WAIT, " t" * 17])
async def test_what_is_computed_stays_below_the_bound(first: int, growth: float, trigger: str) -> None:
    """Without a prefix cache: max_tokens * growth / (growth - 1) and a trigger a round are computed again at most."""
    for most in (100, 200, 290):
        engine = ScriptedEngine(lambda request: words(999))
        session = Session(engine)
        chosen = strategy(first_budget=first, growth=growth, trigger=trigger, max_rounds=16)
        outcome = await play(chosen, task_of(max_tokens=most), session)
        assert session.usage.completion_tokens <= most
        triggers = len(outcome.data("trigger")) * len(engine.encode(trigger))
        assert sum(prompts(engine, TASK_TOKENS)) <= most * growth / (growth - 1) + triggers


def test_greedy_samples_and_grammars_are_refused() -> None:
    with pytest.raises(InvalidTask, match="temperature"):
        strategy(samples=2).check(task_of(temperature=0.0), ScriptedEngine([]))
    strategy(samples=1).check(task_of(temperature=0.0), ScriptedEngine([]))
    with pytest.raises(InvalidTask, match="response_format"):
        strategy().check(task_of(grammar=object()), ScriptedEngine([]))


@pytest.mark.parametrize(
    "params",
    [
        {"first_budget": 0},
        {"growth": 1.0},
        {"growth": math.inf},
        {"growth": math.nan},
        {"max_rounds": -1},
        {"trigger": ""},
        {"samples": 0},
        {"aggregate": "none"},
        {"unknown": 1},
        {"first_budget": "4"},
    ],
    ids=str,
)
def test_wrong_parameters_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        IterativeDeepeningParams(**params)  # type: ignore[arg-type]


def test_budgets_grow() -> None:
    params = IterativeDeepeningParams(first_budget=10, growth=1.5)
    assert [params.grown(10, length) for length in (0, 14, 15, 22, 33, 50)] == [
        15, 15, 22.5, pytest.approx(33.75), pytest.approx(50.625), pytest.approx(75.9375)
    ]  # fmt: skip


def test_generations_add_up() -> None:
    both = generation_of("a b", "length", branch=2) + generation_of("c")
    assert (both.text, len(both.token_ids), both.branch, both.finish_reason) == ("a bc", 3, 2, "stop")
