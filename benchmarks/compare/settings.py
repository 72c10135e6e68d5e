"""What a comparison asks, from a TOML file and from the command line."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from benchmarks.compare.arms import Arm, Strict
from benchmarks.compare.errors import CompareError, told


class Settings(Strict):
    """All that decides the answers: a folder holds those of one such."""

    suite: str = Field(min_length=1, description="As `redraft bench suites` lists them.")
    count: int | None = Field(None, ge=1, description="Items of the suite; all by default.")
    seed: int = Field(0, ge=0, description="Decides the items, the order in which they are asked, and the answers.")
    answers: int = Field(1, ge=1, le=256, description="To each item, of each arm.")
    max_tokens: int = Field(512, ge=1, description="Of an answer.")
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="How the endpoint calls that; OpenAI's reasoning models take the second alone."
    )
    temperature: float = Field(0.7, ge=0, description="Of all arms that do not have their own.")
    top_p: float = Field(1.0, gt=0, le=1, description="Likewise.")
    at_once: int = Field(8, ge=1, description="Requests under way.")
    block: int = Field(8, ge=1, description="Items that one arm is asked before it is another one's turn.")
    run_code: bool = Field(False, description="Whether code that a model wrote may be run, in a sandbox.")
    url: str | None = Field(None, min_length=1, description="Base URL of an endpoint that is there.")
    key_variable: str = Field("OPENAI_API_KEY", min_length=1, description="Environment variable with its key, if any.")
    metrics_url: str | None = Field(None, min_length=1, description="Of its engine, where it is not the url's own.")
    serve: str | None = Field(None, min_length=1, description="Model that `redraft serve` serves for the run.")
    serve_flags: tuple[str, ...] = Field((), strict=False, description="Further flags of `redraft serve`.")
    model: str | None = Field(None, min_length=1, description="Its name at the endpoint.")
    arms: tuple[Arm, ...] = Field(min_length=1, strict=False, description="Ways to ask.")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        labels = [arm.label for arm in self.arms]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two arms are called {twice[0]}")
        if self.url is not None and self.serve is not None:
            raise ValueError("give the url of an endpoint or a model to serve, not both")
        if self.url is None and self.serve is None and not all(arm.base_url for arm in self.arms):
            raise ValueError("give the url of an endpoint, or a model to serve")
        if self.serve is None and self.model is None and not all(arm.model for arm in self.arms):
            raise ValueError("give the model's name at the endpoint")
        return self

    @property
    def served_name(self) -> str:
        """How a model that the run serves is called there."""
        return self.model or Path(self.serve or "").name

    def model_of(self, arm: Arm) -> str:
        """What an arm's requests name."""
        return arm.model or self.model or self.served_name

    def answers_of(self, arm: Arm) -> int:
        """To each item."""
        return arm.answers or self.answers

    @property
    def plain(self) -> Arm | None:
        """The arm whose answers make the curve of self-consistency: the first that asks the run's model plainly."""
        found = (arm for arm in self.arms if not (arm.strategy or arm.base_url or arm.model or arm.sampling))
        return max(found, key=self.answers_of, default=None)


def settings_of(config: Path | None, options: Mapping[str, Any], arms: list[str] | None) -> Settings:
    """From a TOML file, with what the command line says over it.

    Args:
        config: the file, if any.
        options: settings by name; None is one that was not given.
        arms: each as `Arm.parsed` reads it; instead of the file's, if there are any.

    Raises:
        CompareError: something is no TOML, wrong or missing.
    """
    try:
        values: dict[str, Any] = {} if config is None else tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CompareError(f"{config}: {error}") from error
    values |= {name: value for name, value in options.items() if value is not None}
    if arms:
        values["arms"] = [Arm.parsed(text) for text in arms]
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise CompareError(told("" if config is None else str(config), error.errors())) from error
