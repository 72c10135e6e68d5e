"""SRGen's parameters, and how they travel with a request into the engine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from strategies.base import Params
from strategies.reports import OWN_ARGUMENTS

ARGUMENT = "srgen"
"""Name among a call's extra arguments; a client of plain vLLM writes `vllm_xargs={"srgen": "{}"}`."""

TEXT_ARGUMENT = f"{OWN_ARGUMENTS}srgen_text"
"""Name of what the server says beside it, of a call that continues a text. No client's to write."""

MAX_WINDOW = 256

POSITIONS_VARIABLE = "REDRAFT_SRGEN_POSITIONS"
"""Environment variable with the most positions that a correction may be fitted on. All of a batch wait for it."""
CPU_POSITIONS, GPU_POSITIONS = 2048, 32768
PAPER_STEPS = 3

ParamsT = TypeVar("ParamsT", bound=Params)


class SRGenParams(Params):
    """SRGen, arXiv 2510.02919. Defaults are those of its published script for R1-Distill-Qwen-7B."""

    window: int = Field(25, ge=2, le=MAX_WINDOW, description="N, latest entropies that the threshold comes from.")
    sensitivity: float = Field(4.0, ge=0, le=100, description="K, standard deviations above their mean.")
    warmup_threshold: float = Field(3.0, ge=0, le=100, description="Threshold in nats until there are N entropies.")
    min_std: float = Field(0.5, ge=0, le=100, description="Least standard deviation, in nats.")
    min_threshold: float = Field(1.8, ge=0, le=100, description="Least threshold, in nats.")
    entropy_weight: float = Field(0.05, ge=0, le=1, description="lambda, of the entropy against the cross-entropy.")
    steps: int = Field(PAPER_STEPS, ge=1, le=10, description="AdamW's updates of a correction.")
    learning_rate: float = Field(0.01, gt=0, le=0.1, description="AdamW's learning rate.")
    max_activations: int = Field(19, ge=1, le=1000, description="Corrected tokens of an answer at most.")
    scope: Literal["all", "generated"] = Field(
        "all", description="What the cross-entropy is taken over: prompt and answer, as published, or the answer alone."
    )

    def most(self, positions: int) -> int:
        """Of so many positions with the paper's steps, how many these steps may be taken over: each costs as much."""
        return positions * PAPER_STEPS // max(self.steps, PAPER_STEPS)


class SRGenText(Params):
    """Where in its text a call begins."""

    prompt_tokens: int | None = Field(
        None, ge=1, le=2**31, description="Length of the text before its first generated token; None: the prompt's."
    )
    activations: int = Field(0, ge=0, le=2**31, description="Corrections made before this call.")


@dataclass(frozen=True, slots=True)
class SRGenRequest:
    """What one call asks for."""

    params: SRGenParams
    text: SRGenText = field(default_factory=SRGenText)

    def arguments(self) -> dict[str, str]:
        """As strings of JSON: vLLM's extra arguments hold scalars and lists only."""
        arguments = {ARGUMENT: self.params.model_dump_json(exclude_defaults=True)}
        if self.text != SRGenText():
            arguments[TEXT_ARGUMENT] = self.text.model_dump_json(exclude_defaults=True)
        return arguments

    @classmethod
    def read(cls, arguments: Mapping[str, Any] | None) -> "SRGenRequest | None":
        """What a call's extra arguments ask for; None if nothing. Raises ValueError."""
        arguments = arguments or {}
        if arguments.get(ARGUMENT) is None:
            return None
        params = _parsed(SRGenParams, ARGUMENT, arguments[ARGUMENT])
        return cls(params, _parsed(SRGenText, TEXT_ARGUMENT, arguments.get(TEXT_ARGUMENT, "{}")))


def _parsed(model: type[ParamsT], name: str, value: Any) -> ParamsT:
    if not isinstance(value, str):
        raise ValueError(f'{name} must be a string of JSON, such as "{{}}" or \'{{"window": 25}}\'')
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([name, *(str(part) for part in first["loc"])])
        known = ", ".join(model.model_fields)
        raise ValueError(f"{where}: {first['msg']}; parameters are: {known}") from None


def most_positions(device: str) -> int:
    """That a correction may be fitted on, with the paper's steps, on a type of device."""
    chosen = os.environ.get(POSITIONS_VARIABLE)
    return int(chosen) if chosen else CPU_POSITIONS if device == "cpu" else GPU_POSITIONS
