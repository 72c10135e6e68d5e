"""What every strategy is made of."""

from collections.abc import AsyncIterator
from dataclasses import FrozenInstanceError
from operator import add
from typing import Any

import pytest
from pydantic import Field, ValidationError
from typing_extensions import override

from strategies.base import Answer, Budget, Event, InvalidTask, Params, Strategy, Task, require_samples_differ
from strategies.engine import Prompt, Sampling
from strategies.sampling import derive_seed
from strategies.session import Session
from tests.strategies.scripted import ScriptedEngine, generation_of, task_of, token_id


class CountParams(Params):
    """Parameters of Count."""

    to: int = Field(3, ge=1)


class Count(Strategy):
    """Does nothing."""

    name = "count"
    summary = "Counts."
    Parameters = CountParams

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        return
        yield


@pytest.mark.parametrize("values", [{"too": 3}, {"to": "3"}, {"to": 3.0}, {"to": True}, {"to": 0}])
def test_params_are_strict(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CountParams.model_validate(values)


def test_params_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CountParams().to = 5  # type: ignore[misc]


def test_strategy_has_its_params_or_the_defaults() -> None:
    assert Count().params == CountParams(to=3)
    assert Count(CountParams(to=9)).params == CountParams(to=9)


def test_strategy_defaults() -> None:
    assert Count.paper is None
    assert Count.needs == {"tokens"}
    Count().check(task_of(temperature=0.0), ScriptedEngine([]))


def test_strategy_must_have_a_run() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Idle", (Strategy,), {})()


@pytest.mark.parametrize(
    "values", [{"max_tokens": 0}, {"max_seconds": 0}, {"max_tokens": 1.5}, {"max_seconds": "1"}, {"tokens": 1}]
)
def test_budget_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Budget.model_validate(values)


def test_budget_has_no_bounds_by_default() -> None:
    budget = Budget.model_validate_json("{}")
    assert (budget.max_tokens, budget.max_seconds) == (None, None)
    assert Budget.model_validate_json('{"max_seconds": 3, "max_tokens": 5}').max_seconds == 3.0


def test_task_samples_by_the_table() -> None:
    task = task_of(seed=5, stop=("END",), max_tokens=70)
    assert task.sampling_for("final") == task.sampling
    critique = task.sampling_for("critique", round=1, branch=2, max_tokens=16)
    assert critique == Sampling(max_tokens=16, seed=derive_seed(5, 1, 2))
    assert task.sampling_for("draft", round=1, logprobs=3).logprobs == 3
    with pytest.raises(TypeError):
        task.sampling_for("final", max_tokens=16)


def test_task_cannot_change() -> None:
    with pytest.raises(FrozenInstanceError):
        task_of().continues = True  # type: ignore[misc]


def test_answer_of_a_whole_generation() -> None:
    piece = Answer.of(generation_of("six by seven", "length", branch=2)).piece
    assert (piece.text, piece.branch, piece.finish_reason) == ("six by seven", 2, "length")
    assert piece.token_ids == (token_id("six"), token_id(" by"), token_id(" seven"))


def test_a_continued_prompt_keeps_what_was_attached() -> None:
    assert add(Prompt((1, 2), {"image": "i"}), [3, 4]) == Prompt((1, 2, 3, 4), {"image": "i"})


def test_invalid_task_names_the_parameter() -> None:
    assert (str(InvalidTask("no", "n")), InvalidTask("no", "n").param, InvalidTask("no").param) == ("no", "n", None)


def test_greedy_samples_do_not_differ() -> None:
    with pytest.raises(InvalidTask, match="all 3 samples the same") as raised:
        require_samples_differ(task_of(temperature=0.0), 3)
    assert raised.value.param == "temperature"
    require_samples_differ(task_of(temperature=0.0), 1)
    require_samples_differ(task_of(temperature=0.1), 3)
