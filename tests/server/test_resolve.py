from typing import Any

import pytest
from pydantic import Field
from typing_extensions import override

from server.errors import ApiError
from server.resolve import Plan, resolve, split_alias
from strategies.base import Budget, Decoder, Params, Plugin
from strategies.engine import Capability, Generation, Sampling
from strategies.registry import load_strategies


class CoolParams(Params):
    by: float = Field(0.5, ge=0, description="Factor.")


class Cool(Decoder):
    """Lowers the temperature."""

    name = "cool"
    summary = "Cools."
    Parameters = CoolParams
    params: CoolParams

    @override
    def apply(self, sampling: Sampling, continues: Generation | None = None) -> Sampling:
        return Sampling(max_tokens=sampling.max_tokens, temperature=sampling.temperature * self.params.by)


MODELS = ["base", "org/model", "an@adapter"]
STRATEGIES: dict[str, type[Plugin]] = {**load_strategies(), "cool": Cool}
ALL: tuple[Capability, ...] = ("tokens", "logprobs", "grammar")


def plan(model: str | None, spec: object = None, capabilities: tuple[Capability, ...] = ALL) -> Plan | None:
    return resolve(model, spec, models=MODELS, strategies=STRATEGIES, capabilities=capabilities)


def chosen(model: str | None, spec: object = None) -> Plan:
    found = plan(model, spec)
    assert found is not None
    return found


def refusal(model: str | None, spec: object = None, capabilities: tuple[Capability, ...] = ALL) -> ApiError:
    with pytest.raises(ApiError) as error:
        plan(model, spec, capabilities)
    return error.value


@pytest.mark.parametrize("model", [None, "base", "an@adapter", "nobody", "nobody@direct", "@direct", "base2@direct"])
def test_what_asks_for_no_strategy_of_a_listed_model_is_plain(model: str | None) -> None:
    assert plan(model) is None


@pytest.mark.parametrize("model", ["base", "org/model", "an@adapter"])
def test_an_alias_names_model_and_strategy(model: str) -> None:
    found = chosen(f"{model}@self_refine")
    assert (found.model, found.alias, found.name) == (model, f"{model}@self_refine", "self_refine")
    assert found.budget == Budget()


def test_the_alias_of_an_adapter_with_an_at_is_parted_at_the_last() -> None:
    assert split_alias("an@adapter@direct", MODELS, STRATEGIES) == ("an@adapter", ["direct"])


def test_a_decoder_alone_acts_on_a_plain_call() -> None:
    found = chosen("base@cool")
    assert found.name == "direct+cool"
    assert found.decode(Sampling(max_tokens=1, temperature=1.0), None).temperature == 0.5


def test_decoders_go_with_one_orchestrator() -> None:
    found = chosen("base", {"name": "self_refine+cool", "params": {"cool": {"by": 0.25}, "self_refine": {"rounds": 2}}})
    assert found.name == "self_refine+cool"
    assert found.params()["cool"] == {"by": 0.25}
    assert found.params()["self_refine"]["rounds"] == 2
    assert found.decode(Sampling(max_tokens=1, temperature=1.0), None).temperature == 0.25


def test_a_string_is_a_name() -> None:
    assert chosen("base", "best_of_n").name == chosen(None, {"name": "best_of_n"}).name == "best_of_n"


def test_params_and_budget() -> None:
    spec = {"name": "best_of_n", "params": {"samples": 7}, "budget": {"max_tokens": 5, "max_seconds": 2}}
    found = chosen("base", spec)
    assert found.params()["samples"] == 7
    assert (found.budget.max_tokens, found.budget.max_seconds) == (5, 2.0)


@pytest.mark.parametrize(
    "alias", ["base@", "base@x", "base@direct+", "base@+", "base@direct+x", "base@ direct", "base@DIRECT"]
)
def test_an_unknown_alias_is_a_404(alias: str) -> None:
    error = refusal(alias)
    assert (error.status, error.param) == (404, "model")
    assert all(name in str(error) for name in STRATEGIES)


@pytest.mark.parametrize("spec", ["direct", {"name": "direct"}, {}, 3, "", False])
def test_alias_and_strategy_together_are_a_400(spec: object) -> None:
    error = refusal("base@direct", spec)
    assert (error.status, error.param) == (400, "strategy")


@pytest.mark.parametrize(
    ("spec", "param"),
    [
        ("", "strategy.name"),
        ("x", "strategy.name"),
        ("direct+", "strategy.name"),
        ("direct+self_refine", "strategy.name"),
        ("cool+cool", "strategy.name"),
        ({"name": None}, "strategy.name"),
        ({"name": 3}, "strategy.name"),
        ({}, "strategy.name"),
        ([], "strategy"),
        (3, "strategy"),
        (True, "strategy"),
        ({"name": "direct", "x": 1}, "strategy.x"),
        ({"name": "direct", "params": None}, "strategy.params"),
        ({"name": "direct", "params": {"x": 1}}, "strategy.params.x"),
        ({"name": "best_of_n", "params": {"samples": "4"}}, "strategy.params.samples"),
        ({"name": "best_of_n", "params": {"samples": 4.5}}, "strategy.params.samples"),
        ({"name": "best_of_n", "params": {"samples": 0}}, "strategy.params.samples"),
        ({"name": "direct+cool", "params": {"by": 1}}, "strategy.params.by"),
        ({"name": "direct+cool", "params": {"cool": {"x": 1}}}, "strategy.params.cool.x"),
        ({"name": "direct+cool", "params": {"cool": 3}}, "strategy.params.cool"),
        ({"name": "direct", "budget": {"max_tokens": 0}}, "strategy.budget.max_tokens"),
        ({"name": "direct", "budget": {"max_tokens": True}}, "strategy.budget.max_tokens"),
        ({"name": "direct", "budget": {"max_seconds": -1}}, "strategy.budget.max_seconds"),
        ({"name": "direct", "budget": {"max_seconds": float("nan")}}, "strategy.budget.max_seconds"),
        ({"name": "direct", "budget": {"x": 1}}, "strategy.budget.x"),
        ({"name": "direct", "budget": 3}, "strategy.budget"),
        ({"name": "\ud800"}, "strategy"),
    ],
    ids=repr,
)
def test_a_wrong_strategy_is_a_400_that_says_where(spec: Any, param: str) -> None:
    error = refusal("base", spec)
    assert error.status == 400
    assert (error.param or "").startswith(param)


def test_an_engine_that_lacks_something_says_so() -> None:
    error = refusal("base@self_refine", capabilities=("tokens",))
    assert error.status == 400
    assert "lacks logprobs" in str(error)
    assert plan("base@direct", capabilities=("tokens",)) is not None


@pytest.mark.parametrize("depth", [400, 900, 955, 960, 2_000])
def test_deep_nesting_is_a_400(depth: int) -> None:
    spec: Any = []
    for _ in range(depth):
        spec = [spec]
    with pytest.raises(ApiError) as error:
        resolve("m", spec, models=["m"], strategies=STRATEGIES, capabilities=[])
    assert error.value.status == 400
