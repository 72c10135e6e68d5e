"""Best-of-n over scripted samples with scripted probabilities."""

import asyncio
import math
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from pydantic import ValidationError

from strategies.base import InvalidTask, Note
from strategies.best_of_n import BestOfN, BestOfNParams
from strategies.call import Call
from strategies.engine import TokenLogprobs
from strategies.sampling import derive_seed
from strategies.scores import SCORERS
from strategies.session import Session
from tests.strategies.scripted import Clock, Reply, ScriptedEngine, play, task_of, token_id

LN_2 = math.log(2)


def strategy(samples: int, scorer: str = "self_certainty") -> BestOfN:
    return BestOfN(BestOfNParams(samples=samples, scorer=scorer))


def seen(*probabilities: float) -> list[float]:
    """One position's log-probabilities, the sampled token's first."""
    return [math.log(probability) for probability in probabilities]


class CountsThe:
    """A third party's scorer: the share of tokens that are the word "the"."""

    likeliest = 3

    def token(self, logprobs: TokenLogprobs, token_id_: int, vocab_size: int) -> float:
        """1 for the word, else 0."""
        return float(token_id_ in (token_id("the"), token_id(" the")))


# Both samples as an engine with 4 tokens sees them. Of the first, the two positions have self-certainty ln(2) / 4, see
# test_scores.py, and 0, for all four tokens have 1/4; their sampled tokens have ln(1/2) and ln(1/4).
EVEN = Reply("a b", logprobs=[seen(0.5, 0.25), seen(0.25, 0.25)])
# An unlikely token was sampled where the model was sure of another: .1, .7, and twice .1 for the rest.
SURPRISED = Reply("c", logprobs=[seen(0.1, 0.7)])
SURPRISED_CERTAINTY = -(3 * math.log(4 * 0.1) + math.log(4 * 0.7)) / 4


@pytest.mark.parametrize(
    ("scorer", "scores", "chosen"),
    [
        ("mean_logprob", [-1.5 * LN_2, math.log(0.1)], "a b"),
        ("self_certainty", [LN_2 / 8, SURPRISED_CERTAINTY], "c"),
    ],
)
async def test_scorers_by_hand(scorer: str, scores: list[float], chosen: str) -> None:
    calls: list[Call] = []
    engine = ScriptedEngine([EVEN, SURPRISED], vocab_size=4)
    outcome = await play(strategy(2, scorer), task_of(), Session(engine, on_call=calls.append))
    assert (outcome.answer, outcome.finish_reason, len(outcome.pieces)) == (chosen, "stop", 1)
    data = outcome.data("score")
    assert [each["score"] for each in data] == pytest.approx(scores)
    assert [(each["scorer"], each["complete"]) for each in data] == [(scorer, True)] * 2
    assert [(note.branch, note.role) for note in outcome.notes if note.kind == "score"] == [
        (0, "sample"),
        (1, "sample"),
    ]
    assert outcome.notes[-1] == Note("chosen", f"sample {'ac'.index(chosen[0])}", {"branch": "ac".index(chosen[0])})
    assert outcome.thoughts() == [("sample", 0, "a b"), ("sample", 1, "c")]
    assert [call.role for call in calls] == ["sample"]


async def test_answer_has_its_tokens_and_logprobs() -> None:
    outcome = await play(strategy(1), task_of(logprobs=2), Session(ScriptedEngine([EVEN], vocab_size=4)))
    (piece,) = outcome.pieces
    assert piece.token_ids == (token_id("a"), token_id(" b"))
    assert piece.logprobs is not None
    assert [len(at) for at in piece.logprobs] == [2, 2]


@pytest.mark.parametrize(
    ("scorer", "client", "engine", "asked"),
    [
        ("self_certainty", None, 50, 20),
        ("self_certainty", None, 5, 5),
        ("self_certainty", 30, 50, 30),
        ("mean_logprob", None, 50, 0),
        ("mean_logprob", 3, 50, 3),
    ],
)
async def test_asks_for_no_more_logprobs_than_the_engine_has(
    scorer: str, client: int | None, engine: int, asked: int
) -> None:
    scripted = ScriptedEngine(["a", "b"], max_logprobs=engine)
    await play(strategy(2, scorer), task_of(logprobs=client), Session(scripted))
    assert [request.sampling.logprobs for request in scripted.requests] == [asked] * 2


async def test_samples_share_a_prompt_and_differ_in_seed() -> None:
    engine = ScriptedEngine(["a"] * 3)
    task = task_of(seed=5, temperature=0.7, stop=("END",))
    await play(strategy(3), task, Session(engine))
    assert [request.prompt for request in engine.requests] == [task.prompt] * 3
    assert [request.sampling.seed for request in engine.requests] == [5, derive_seed(5, 0, 1), derive_seed(5, 0, 2)]
    assert {(request.sampling.temperature, request.sampling.stop) for request in engine.requests} == {(0.7, ("END",))}


async def test_of_equals_the_first_is_chosen() -> None:
    outcome = await play(strategy(3, "mean_logprob"), task_of(), Session(ScriptedEngine(["a", "b", "c"])))
    assert outcome.answer == "a"


async def test_a_whole_answer_beats_a_cut_one_of_better_score() -> None:
    cut = Reply("a b", finish_reason="length", logprobs=[[-0.1], [-0.1]])
    whole = Reply("c", logprobs=[[-5.0]])
    outcome = await play(strategy(2, "mean_logprob"), task_of(), Session(ScriptedEngine([cut, whole])))
    assert (outcome.answer, outcome.finish_reason) == ("c", "stop")
    assert [each["complete"] for each in outcome.data("score")] == [False, True]


async def test_an_empty_answer_loses() -> None:
    """Its score is 0, above every mean log-probability."""
    outcome = await play(strategy(2, "mean_logprob"), task_of(), Session(ScriptedEngine(["", "a"])))
    assert outcome.answer == "a"


async def test_nothing_but_empty_answers() -> None:
    outcome = await play(strategy(2), task_of(), Session(ScriptedEngine(["", ""])))
    assert (outcome.answer, outcome.finish_reason) == ("", "stop")


async def test_a_small_budget_leaves_fewer_and_shorter_samples() -> None:
    engine = ScriptedEngine([Reply("a b", logprobs=[[-2.0], [-2.0]]), Reply("c d", logprobs=[[-1.0], [-1.0]])])
    session = Session(engine, max_tokens=2)
    outcome = await play(strategy(4, "mean_logprob"), task_of(), session)
    assert (outcome.answer, outcome.finish_reason, session.limit) == ("c", "length", "budget")
    assert [each["score"] for each in outcome.data("score")] == [-2.0, -1.0]


async def test_a_deadline_leaves_the_choice_among_what_there_is(clock: Clock) -> None:
    held = Reply("a b", hold_at=1, logprobs=[[-0.5], [-0.5]])
    engine = ScriptedEngine([held, Reply("c", logprobs=[[-3.0]]), held])
    session = Session(engine, max_seconds=5)
    playing = asyncio.create_task(play(strategy(3, "mean_logprob"), task_of(), session))
    await engine.until_held(2)
    await clock.advance(5)
    outcome = await playing
    assert (outcome.answer, outcome.finish_reason, session.limit) == ("c", "stop", "deadline")
    assert [each["score"] for each in outcome.data("score")] == [-0.5, -3.0, -0.5]


async def test_a_scorer_of_a_third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("counts_the", f"{__name__}:CountsThe", "redraft.scorers")
    monkeypatch.setitem(SCORERS, "counts_the", point)
    engine = ScriptedEngine(["a the", "the the", "the a"])
    outcome = await play(strategy(3, "counts_the"), task_of(), Session(engine))
    assert outcome.answer == "the the"
    assert [each["score"] for each in outcome.data("score")] == [0.5, 1.0, 0.5]
    assert engine.requests[0].sampling.logprobs == 3


def test_our_own_scorers_are_announced() -> None:
    assert {"mean_logprob", "self_certainty"} <= SCORERS.keys()
    schema = BestOfNParams.model_json_schema()
    assert "mean_logprob, self_certainty" in schema["properties"]["scorer"]["description"]


def test_an_unknown_scorer_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValidationError, match="unknown scorer 'luck'; there are: mean_logprob, self_certainty"):
        BestOfNParams(scorer="luck")


@pytest.mark.parametrize("params", [{"samples": 0}, {"samples": 65}, {"n": 3}])
def test_params_refuse(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BestOfNParams.model_validate(params)


def test_greedy_samples_are_refused() -> None:
    with pytest.raises(InvalidTask, match="temperature 0"):
        strategy(2).check(task_of(temperature=0.0), ScriptedEngine([]))
    strategy(1).check(task_of(temperature=0.0), ScriptedEngine([]))


def test_needs_logprobs() -> None:
    assert BestOfN.needs == {"logprobs"}
