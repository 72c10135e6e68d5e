"""Arms: ways to ask that are compared."""

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from benchmarks.compare.errors import CompareError, told

OURS = frozenset({"model", "messages", "tools", "stream", "stream_options", "seed", "n", "strategy"})
"""Fields of a request that the comparison sets by itself."""


class Strict(BaseModel):
    """Unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Budget(Strict):
    """What a strategy may spend on a request."""

    max_tokens: int | None = Field(None, ge=1, description="Completion tokens over all of its calls.")
    max_seconds: float | None = Field(None, gt=0, description="From its start.")


class Arm(Strict):
    """One way to ask."""

    label: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 .,+@()/-]{0,39}$", description="How the report calls it, and no other arm."
    )
    strategy: str | None = Field(None, min_length=1, description="Of redraft; none asks plainly.")
    params: Mapping[str, Any] = Field({}, description="Of the strategy.")
    budget: Budget | None = Field(None, description="Of the strategy.")
    model: str | None = Field(None, min_length=1, description="Instead of the run's.")
    sampling: Mapping[str, Any] = Field({}, description="Fields of its requests, over the run's: temperature, ...")
    answers: int | None = Field(None, ge=1, description="To each item, instead of the run's.")
    base_url: str | None = Field(None, min_length=1, description="Of an endpoint of its own.")
    key_variable: str | None = Field(
        None, min_length=1, description="Environment variable with the key for base_url; none is sent without it."
    )
    metrics_url: str | None = Field(
        None, min_length=1, description="Of the /metrics of the engine that answers, where it is not base_url's own."
    )

    @field_validator("sampling")
    @classmethod
    def _not_ours(cls, sampling: Mapping[str, Any]) -> Mapping[str, Any]:
        if taken := OURS & sampling.keys():
            raise ValueError(f"{', '.join(sorted(taken))} are set by the comparison")
        return sampling

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.strategy is None and (self.params or self.budget):
            raise ValueError("params and budget belong to a strategy, and none is named")
        if self.base_url is None and self.key_variable is not None:
            raise ValueError("key_variable belongs to a base_url, and none is given")
        return self

    @classmethod
    def parsed(cls, text: str) -> Self:
        """From `LABEL=`, `LABEL=STRATEGY` or `LABEL=STRATEGY:{"params": ...}`, with all that an arm has but its label
        and strategy. Raises CompareError.
        """
        label, equals, rest = text.partition("=")
        if not equals:
            raise CompareError(f"arm {text}: LABEL=STRATEGY is wanted, or LABEL= for none")
        strategy, colon, more = rest.partition(":")
        try:
            given = json.loads(more) if colon else {}
        except ValueError as error:
            raise CompareError(f"arm {label}: {more} is no JSON: {error}") from error
        if not isinstance(given, dict) or given.keys() & {"label", "strategy"}:
            raise CompareError(f"arm {label}: an object is wanted behind the colon, without label and strategy")
        try:
            return cls.model_validate({**given, "label": label, "strategy": strategy or None})
        except ValidationError as error:
            raise CompareError(told(f"arm {label}", error.errors())) from error

    def fields(self) -> dict[str, Any]:
        """What its requests have of its own."""
        if self.strategy is None:
            return dict(self.sampling)
        strategy: dict[str, Any] = {"name": self.strategy, "params": dict(self.params)}
        if self.budget is not None:
            strategy["budget"] = self.budget.model_dump(exclude_none=True)
        return {**self.sampling, "strategy": strategy}
