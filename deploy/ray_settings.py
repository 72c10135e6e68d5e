"""Arguments of the two Ray Serve applications: of `serve run` as NAME=VALUE, or of a Serve config file as YAML."""

import shlex
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from server.settings import OF_THE_ENGINE, Settings

ENGINE_SETTINGS = (frozenset(OF_THE_ENGINE) - {"training"}) | {
    "adapter_slots",
    "adapters",
    "chat_template",
    "log_level",
    "otlp_traces_endpoint",
    "reasoning_parser",
    "served_model_name",
    "tool_call_parser",
}
"""Settings of `redraft serve` that an engine behind a gateway has too."""
DECIDED_HERE = frozenset({"engine", "upstream", "model", "host", "port"})
SECRET = "_key"
"""End of the names of settings that are keys. What an application is built with, Ray shows to whoever asks."""


class Replicas(BaseModel):
    """How many replicas an application has, and what each gets. Serve starts and stops them by the requests they have.

    All else that Serve knows about a deployment stands in a config file under the deployment's name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str | None = Field(None, description="As `redraft serve --model`.")
    settings: Mapping[str, Any] = Field({}, description="Further settings of `redraft serve`, by name; no keys.")
    vllm_flags: tuple[str, ...] = Field((), description="vLLM's own flags, as after the -- of `redraft serve`.")

    min_replicas: int = Field(1, ge=1, description="Replicas that are always there.")
    max_replicas: int = Field(1, ge=1, description="Replicas at most.")
    target_ongoing_requests: float = Field(32, gt=0, description="Requests a replica above which more are started.")
    max_ongoing_requests: int = Field(128, ge=1, description="Requests a replica above which others wait.")
    cpus: float = Field(1, ge=0, description="CPU cores that a replica reserves.")
    gpus: float = Field(0, ge=0, description="GPUs that a replica gets.")

    @field_validator("vllm_flags", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A command line has one string."""
        return shlex.split(value) if isinstance(value, str) else value

    @field_validator("settings")
    @classmethod
    def _hold_no_secrets(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        if secret := sorted(name for name in settings if name.endswith(SECRET)):
            variables = ", ".join(f"REDRAFT_{name.upper()}" for name in secret)
            raise ValueError(f"keys come from the environment of the replicas, not from here: {variables}")
        return settings

    @model_validator(mode="after")
    def _have_room(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than min_replicas {self.min_replicas}")
        if self.max_ongoing_requests < self.target_ongoing_requests:
            raise ValueError("max_ongoing_requests is less than target_ongoing_requests: no replica would be added")
        self.redraft()
        return self

    def redraft(self) -> Settings:
        """As settings of `redraft serve`, REDRAFT_* variables of this process among them. Raises ValidationError."""
        raise NotImplementedError


class EngineArguments(Replicas):
    """Replicas of vLLM with redraft's plugins.

    Tensor, pipeline and data parallelism are vLLM's flags. Such a replica is one engine on one node, and `gpus` is then
    the product of the three.
    """

    def redraft(self) -> Settings:
        """As settings of `redraft serve`."""
        if wrong := sorted(self.settings.keys() - ENGINE_SETTINGS):
            raise ValueError(f"{', '.join(wrong)}: an engine's settings are {', '.join(sorted(ENGINE_SETTINGS))}")
        return Settings(model=self.model, **self.settings)


class GatewayArguments(Replicas):
    """Replicas of redraft in front of the engines."""

    upstream: tuple[str, ...] = Field(
        ("http://127.0.0.1:8000/engine",),
        min_length=1,
        description="The engines' application at the Serve proxy of a gateway's own node, or other vLLM servers.",
    )
    ready_seconds: float = Field(1800, gt=0, description="How long a gateway waits for an engine when it starts.")
    target_ongoing_requests: float = Field(200, gt=0, description="Requests a replica above which more are started.")
    max_ongoing_requests: int = Field(1000, ge=1, description="Requests a replica above which others wait.")

    @field_validator("upstream", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    def redraft(self) -> Settings:
        """As settings of `redraft serve --engine remote`."""
        if wrong := sorted(self.settings.keys() & DECIDED_HERE):
            raise ValueError(f"{', '.join(wrong)}: not a gateway's setting here")
        return Settings(engine="remote", upstream=self.upstream, model=self.model, **self.settings)
