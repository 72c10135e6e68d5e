"""Every branch of ReVISE's control flow, on an engine that says what is written here."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from strategies.base import InvalidTask
from strategies.engine import Prompt
from strategies.revise import Revise, ReviseParams
from strategies.revise.verify import AGAIN, NO, QUESTION, YES
from strategies.session import Session
from tests.strategies.scripted import EOS, Outcome, Reply, Request, ScriptedEngine, play, task_of, token_id

REFINE = token_id("<|refine|>")


def ends(text: str) -> Reply:
    return Reply(text, end=EOS)


def refines(text: str) -> Reply:
    return Reply(text, end=REFINE, stop_reason=REFINE)


def probabilities(**by_name: float) -> Callable[[Prompt, int], float]:
    """Log-probabilities of the end, the refine token, and the two replies, wherever they stand."""
    tokens = {"end": EOS, "refine": REFINE, "yes": token_id(YES), "no": token_id(NO), "lower": token_id(" yes")}
    values = {tokens[name]: math.log(value) for name, value in by_name.items()}
    return lambda prompt, token: values.get(token, -20.0)


async def played(engine: ScriptedEngine, sampling: dict[str, Any] | None = None, **params: Any) -> Outcome:
    return await play(Revise(ReviseParams(**params)), task_of(**(sampling or {})), Session(engine))


async def test_an_attempt_that_ends_is_the_answer() -> None:
    engine = ScriptedEngine([ends("it is 42")], scores=probabilities(end=0.8, refine=0.1))
    outcome = await played(engine)
    assert (outcome.answer, outcome.finish_reason) == ("it is 42", "stop")
    (note,) = outcome.data("verified")
    assert note == {"round": 0, "confidence": pytest.approx(0.8), "refine": False, "mass": pytest.approx(0.9)}
    # Behind the attempt, without the token that ended it.
    (scored,) = engine.scored
    assert scored == task_of().prompt + [token_id(word) for word in ("it", " is", " 42")]


async def test_it_thinks_again_behind_the_token() -> None:
    engine = ScriptedEngine([refines("it is 41"), ends("no, 42")], scores=probabilities(end=0.3, refine=0.6))
    outcome = await played(engine)
    assert outcome.answer == "no, 42"
    assert [note["refine"] for note in outcome.data("verified")] == [True, False]
    first, second = engine.requests
    assert REFINE in first.sampling.stop_token_ids
    said = [token_id(word) for word in ("it", " is", " 41")]
    assert second.prompt.token_ids == (*first.prompt.token_ids, *said, REFINE)
    assert outcome.thoughts() == [("attempt", 0, "it is 41no, 42")]


@pytest.mark.parametrize(
    ("threshold", "end", "answer"),
    [(0.9, 0.8, "no, 42"), (0.8, 0.8, "it is 41"), (1, 1.0, "no, 42"), (0, 0.0, "it is 41")],
)
async def test_a_threshold_decides_in_place_of_the_model(threshold: float, end: float, answer: str) -> None:
    """The model itself would end where its confidence is the larger, and refine where it is 0."""
    first = ends("it is 41") if end else refines("it is 41")
    scores = probabilities(end=end or 1e-300)
    outcome = await played(ScriptedEngine([first, ends("no, 42")], scores=scores), threshold=threshold)
    assert outcome.answer == answer
    assert outcome.data("verified")[0]["refine"] == (answer == "no, 42")


async def test_a_threshold_goes_on_behind_the_token_that_the_model_did_not_say() -> None:
    engine = ScriptedEngine([ends("it is 41"), ends("no, 42")], scores=probabilities(end=0.8))
    await played(engine, threshold=1)
    first, second = engine.requests
    said = [token_id(word) for word in ("it", " is", " 41")]
    assert second.prompt.token_ids == (*first.prompt.token_ids, *said, REFINE)


async def test_the_checkpoint_names_its_token() -> None:
    own = token_id("<|again|>")
    engine = ScriptedEngine([Reply("41", end=own, stop_reason=own), ends("42")], scores=probabilities(end=0.8))
    engine.capabilities = replace(engine.capabilities, refine_token="<|again|>")
    assert (await played(engine)).answer == "42"
    assert own in engine.requests[0].sampling.stop_token_ids
    # What a request names comes first.
    engine = ScriptedEngine([ends("41")], scores=probabilities(end=0.8))
    engine.capabilities = replace(engine.capabilities, refine_token="<|again|>")
    await played(engine, token="<|refine|>")
    assert REFINE in engine.requests[0].sampling.stop_token_ids


async def test_rounds_bound_it() -> None:
    engine = ScriptedEngine(lambda request: refines(f"attempt {request.number}"), scores=probabilities(end=0.1))
    outcome = await played(engine, rounds=2)
    assert outcome.answer == "attempt 2"
    assert outcome.finish_reason == "stop"
    assert len(engine.requests) == 3
    # Each prompt has all attempts before it.
    assert [request.prompt.token_ids.count(REFINE) for request in engine.requests] == [0, 1, 2]
    assert engine.requests[2].prompt.token_ids[: len(engine.requests[1].prompt)] == engine.requests[1].prompt.token_ids


async def test_no_rounds() -> None:
    engine = ScriptedEngine([refines("it is 41")])
    assert (await played(engine, rounds=0)).answer == "it is 41"


async def test_ratio_leaves_other_tokens_out() -> None:
    engine = ScriptedEngine([ends("42")], scores=probabilities(end=0.3, refine=0.1))
    outcome = await played(engine, confidence="ratio")
    assert outcome.data("verified")[0]["confidence"] == pytest.approx(0.75)


async def test_a_cut_attempt_is_not_verified() -> None:
    engine = ScriptedEngine([Reply("it is a long story")])
    outcome = await played(engine, {"max_tokens": 3})
    assert (outcome.answer, outcome.finish_reason) == ("it is a", "length")
    assert not engine.scored
    assert not outcome.data("verified")


async def test_a_stop_string_ends_an_attempt() -> None:
    engine = ScriptedEngine([Reply("it is 42", stop_reason="END")], scores=probabilities(end=0.5))
    outcome = await played(engine, {"stop": ("END",)})
    assert outcome.answer == "it is 42"
    assert len(engine.scored[0]) == len(task_of().prompt) + 3


def votes(request: Request) -> Reply:
    return ends(["so \\boxed{1}", "so \\boxed{2}", "then \\boxed{2}"][request.number])


def surest_of_the_first(prompt: Prompt, token: int) -> float:
    """P(end) is 0.9 after the first of those, else 0.3."""
    return math.log(0.9 if token_id(" \\boxed{1}") in prompt.token_ids else 0.3) if token == EOS else -20.0


async def test_samples_vote_with_their_confidence() -> None:
    outcome = await played(ScriptedEngine(votes, scores=surest_of_the_first), samples=3)
    assert outcome.answer == "so \\boxed{1}"
    (result,) = outcome.data("result")
    assert result["votes"] == {"1": pytest.approx(0.9), "2": pytest.approx(0.6)}


async def test_or_with_one_vote_each() -> None:
    outcome = await played(ScriptedEngine(votes, scores=surest_of_the_first), samples=3, aggregate="majority")
    assert outcome.answer == "so \\boxed{2}"


async def test_samples_go_on_by_themselves() -> None:
    """One that thinks again does not wait for the others."""

    def script(request: Request) -> Reply:
        if REFINE in request.prompt.token_ids:
            return ends("again")
        return Reply("a b c", end=EOS, hold_at=2) if request.number == 0 else refines("x")

    engine = ScriptedEngine(script)
    session = Session(engine)
    async with session:
        async for _ in Revise(ReviseParams(samples=2)).run(task_of(), session):
            if len(engine.requests) == 3:
                engine.release()
    assert len(engine.requests) == 3


async def test_prompted_asks_in_words() -> None:
    engine = ScriptedEngine(["41", "42"], scores=probabilities(yes=0.2, no=0.6))
    outcome = await played(engine, mode="prompted")
    assert outcome.answer == "42"
    verified = {"round": 0, "confidence": pytest.approx(0.25), "refine": True, "mass": pytest.approx(0.8)}
    assert outcome.data("verified")[0] == verified
    first, second = engine.scored
    assert "".join(map(chr, first.token_ids)).endswith(f"<assistant>41<end><user>{QUESTION}<end><assistant>")
    assert engine.requests[1].asked == AGAIN
    assert f"<assistant>{NO}<end>" in engine.requests[1].text
    assert "".join(map(chr, second.token_ids)).endswith(f"<assistant>42<end><user>{QUESTION}<end><assistant>")
    # Neither token nor stop is the model's: it was not trained for them.
    assert all(REFINE not in request.sampling.stop_token_ids for request in engine.requests)


async def test_prompted_accepts_what_it_is_sure_of() -> None:
    engine = ScriptedEngine(["42"], scores=probabilities(yes=0.6, no=0.2))
    outcome = await played(engine, mode="prompted")
    assert (outcome.answer, len(engine.requests)) == ("42", 1)


async def test_prompted_counts_a_reply_however_it_is_written() -> None:
    engine = ScriptedEngine(["42"], scores=probabilities(yes=0.2, lower=0.2, no=0.3))
    (note,) = (await played(engine, mode="prompted", rounds=0)).data("verified")
    assert (note["confidence"], note["mass"]) == (pytest.approx(4 / 7), pytest.approx(0.7))


async def test_prompted_reads_words_whose_spellings_begin_alike() -> None:
    """As SentencePiece writes a space: that token begins both, and says nothing of either."""

    class Engine(ScriptedEngine):
        def encode(self, text: str) -> tuple[int, ...]:
            return (7, *super().encode(text[1:])) if text.startswith(" ") else super().encode(text)

    scores = probabilities(yes=0.2, no=0.6)
    engine = Engine(["42"], scores=lambda prompt, token: math.log(0.95) if token == 7 else scores(prompt, token))
    (note,) = (await played(engine, mode="prompted", rounds=0)).data("verified")
    assert (note["confidence"], note["mass"]) == (pytest.approx(0.25), pytest.approx(0.8))


async def test_an_attempt_that_says_nothing_is_no_answer() -> None:
    engine = ScriptedEngine([refines("it is 41"), ends("")], scores=probabilities(end=0.4))
    assert (await played(engine)).answer == "it is 41"


@pytest.mark.parametrize("score", [-math.inf, math.nan])
@pytest.mark.parametrize("params", [{"confidence": "ratio"}, {"confidence": "end"}, {"mode": "prompted"}], ids=str)
async def test_impossible_tokens_make_no_confidence(score: float, params: dict[str, Any]) -> None:
    outcome = await played(ScriptedEngine(["42"], scores=lambda prompt, token: score), **params)
    (note,) = outcome.data("verified")
    assert (note["confidence"], note["refine"]) == (0, False)


@pytest.mark.parametrize("token", ["no such token", "word", "<|end|>"])
async def test_a_model_without_the_token_is_told_how_to_get_one(token: str) -> None:
    engine = ScriptedEngine([])
    engine.capabilities = replace(engine.capabilities, end_tokens=(EOS, token_id("<|end|>")))
    with pytest.raises(InvalidTask, match=r"trained for revise.*2502\.14565.*prompted"):
        Revise(ReviseParams(token=token)).check(task_of(), engine)
    Revise(ReviseParams(token=token, mode="prompted")).check(task_of(), engine)


def test_a_token_without_weights_is_none() -> None:
    """A tokenizer that was given one, over embeddings that were not resized."""
    with pytest.raises(InvalidTask, match="trained for revise"):
        Revise().check(task_of(), ScriptedEngine([], vocab_size=REFINE))


def test_a_grammar_would_forbid_the_token() -> None:
    with pytest.raises(InvalidTask, match="response_format"):
        Revise().check(task_of(grammar=object()), ScriptedEngine([]))
    Revise(ReviseParams(mode="prompted")).check(task_of(grammar=object()), ScriptedEngine([]))


def test_greedy_samples_are_refused() -> None:
    with pytest.raises(InvalidTask, match="temperature"):
        Revise(ReviseParams(samples=2)).check(task_of(temperature=0.0), ScriptedEngine([]))


async def test_a_budget_that_ends_gives_the_surest_so_far() -> None:
    engine = ScriptedEngine([refines("a b c"), ends("d e f g")], scores=probabilities(end=0.5))
    session = Session(engine, max_tokens=4 + 2 + 2)
    outcome = await play(Revise(), task_of(max_tokens=5), session)
    assert session.limit == "budget"
    assert session.usage.completion_tokens <= 8
    # What it doubted, but had said to its end.
    assert (outcome.answer, outcome.finish_reason) == ("a b c", "stop")


async def test_an_attempt_that_is_cut_does_not_count_behind_a_whole_one() -> None:
    engine = ScriptedEngine([refines("a b c"), ends("d e f g h i")], scores=probabilities(end=0.5))
    outcome = await played(engine, {"max_tokens": 5})
    assert (outcome.answer, outcome.finish_reason) == ("a b c", "stop")
    assert outcome.data("result")[0]["votes"] == {"a b c": 0.5}


async def test_a_budget_too_small_to_verify() -> None:
    session = Session(ScriptedEngine([ends("a b c")]), max_tokens=5)
    outcome = await play(Revise(), task_of(), session)
    assert outcome.answer == "a b c"
    assert session.limit == "budget"


@pytest.mark.parametrize(
    "params", [{"rounds": -1}, {"samples": 0}, {"mode": "x"}, {"token": ""}, {"confidence": "x"}, {"y": 1}], ids=str
)
def test_wrong_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReviseParams(**params)
