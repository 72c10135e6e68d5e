"""Which strategy a request asked for, by alias or by object; the only place where a request selects anything."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from server.errors import ApiError
from strategies.base import Budget, Decoder, Note, Plugin, Strategy
from strategies.engine import Capability, Generation, Report, Sampling


class StrategySpec(BaseModel):
    """The `strategy` object of a request body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    params: dict[str, Any] = {}
    budget: Budget = Budget()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request's answer is to be made with."""

    model: str | None
    """A listed model or adapter, None for the default one."""
    alias: str | None
    """The model name as the client wrote it."""
    strategy: Strategy
    decoders: Sequence[Decoder]
    budget: Budget

    @property
    def name(self) -> str:
        """Strategy and decoders, as an alias writes them."""
        return "+".join([self.strategy.name, *(decoder.name for decoder in self.decoders)])

    def decode(self, sampling: Sampling, continues: Generation | None) -> Sampling:
        """A branch's sampling with the request's decoders switched on."""
        for decoder in self.decoders:
            sampling = decoder.apply(sampling, continues)
        return sampling

    def note(self, report: Report) -> Note:
        """What clients are told of a decoder's report."""
        (decoder,) = (decoder for decoder in self.decoders if decoder.name == report["decoder"])
        return decoder.note(report)

    def params(self) -> dict[str, Any]:
        """The parameters in force; by strategy name where several work together."""
        plugins: list[Plugin] = [self.strategy, *self.decoders]
        values = {plugin.name: plugin.params.model_dump(mode="json") for plugin in plugins}
        return values if self.decoders else values[self.strategy.name]


def resolve(
    model: str | None,
    spec: object,
    *,
    models: Collection[str],
    strategies: Mapping[str, type[Plugin]],
    capabilities: Collection[Capability],
) -> Plan | None:
    """The plan for a request, None for a plain one.

    Args:
        model: the request's `model`.
        spec: the request's `strategy`: None, a name, or an object.
        models: the listed models and adapters.
        strategies: all strategies by name.
        capabilities: what the engine can do.

    Raises:
        ApiError: 404 for an alias of a listed model that names no strategy; 400 for anything else that does not exist.
    """
    base, names = split_alias(model, models, strategies)
    if spec is None and names is None:
        return None
    if spec is not None and names is not None:
        raise ApiError(400, f"the model {model!r} names a strategy already; send it without `strategy`", "strategy")
    parsed = StrategySpec(name="+".join(names or ())) if names is not None else _parse_spec(spec, strategies)
    plugins = _build(parsed, strategies)
    orchestrators = [plugin for plugin in plugins if isinstance(plugin, Strategy)]
    decoders = [plugin for plugin in plugins if isinstance(plugin, Decoder)]
    if len(orchestrators) > 1:
        names_ = ", ".join(plugin.name for plugin in orchestrators)
        raise ApiError(400, f"at most one orchestrating strategy a request, not {names_}", "strategy.name")
    for plugin in plugins:
        if lacking := sorted(plugin.needs - set(capabilities)):
            raise ApiError(400, f"this engine cannot run {plugin.name}: it lacks {', '.join(lacking)}", "strategy.name")
    strategy = orchestrators[0] if orchestrators else _direct(strategies)
    return Plan(base, model, strategy, decoders, parsed.budget)


def split_alias(
    model: str | None, models: Collection[str], strategies: Mapping[str, type[Plugin]]
) -> tuple[str | None, list[str] | None]:
    """A listed model and the strategies that the alias names, None where it is no alias.

    A name that begins with no listed model is left to vLLM, whose 404 says which models there are.
    """
    if model is None or model in models or "@" not in model:
        return model, None
    base, _, rest = model.rpartition("@")
    if base not in models:
        return model, None
    names = rest.split("+")
    if unknown := [name for name in names if name not in strategies]:
        raise ApiError(
            404,
            f"the model {model!r} does not exist: no strategy {unknown[0]!r}; there are: {', '.join(strategies)}",
            "model",
        )
    return base, names


def _parse_spec(spec: object, strategies: Mapping[str, type[Plugin]]) -> StrategySpec:
    if isinstance(spec, str):
        spec = {"name": spec}
    try:
        return StrategySpec.model_validate_json(json.dumps(spec))
    except RecursionError:
        raise ApiError(400, "strategy: nested too deeply", "strategy") from None
    except ValidationError as error:
        hint = f"keys are: {', '.join(StrategySpec.model_fields)}; of budget: {', '.join(Budget.model_fields)}"
        raise _invalid(error, "strategy", f"{hint}; strategies are: {', '.join(strategies)}") from None


def _build(spec: StrategySpec, strategies: Mapping[str, type[Plugin]]) -> list[Plugin]:
    names = spec.name.split("+")
    for name in names:
        if name not in strategies:
            raise ApiError(400, f"unknown strategy {name!r}; there are: {', '.join(strategies)}", "strategy.name")
    if len(set(names)) < len(names):
        raise ApiError(400, f"{spec.name!r} names a strategy twice", "strategy.name")
    if len(names) == 1:
        return [_with_params(strategies[names[0]], spec.params, "strategy.params")]
    if unknown := sorted(spec.params.keys() - set(names)):
        raise ApiError(
            400,
            f"unknown key {unknown[0]!r}: parameters of {spec.name} stand under the names of its parts: "
            f"{', '.join(names)}",
            f"strategy.params.{unknown[0]}",
        )
    return [_with_params(strategies[name], spec.params.get(name, {}), f"strategy.params.{name}") for name in names]


def _with_params(plugin: type[Plugin], params: object, path: str) -> Plugin:
    try:
        return plugin(plugin.Parameters.model_validate_json(json.dumps(params)))
    except ValidationError as error:
        known = ", ".join(plugin.Parameters.model_fields) or "none"
        raise _invalid(error, path, f"parameters of {plugin.name} are: {known}") from None


def _direct(strategies: Mapping[str, type[Plugin]]) -> Strategy:
    """Decoders alone act on one plain call."""
    direct = strategies["direct"]()
    assert isinstance(direct, Strategy)
    return direct


def _invalid(error: ValidationError, path: str, hint: str) -> ApiError:
    first = error.errors(include_url=False)[0]
    where = ".".join([path, *(str(part) for part in first["loc"])])
    return ApiError(400, f"{where}: {first['msg']}; {hint}", where)
