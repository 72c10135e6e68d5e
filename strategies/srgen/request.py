"""SRGen's parameters, and how they travel with a request into the engine."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from strategies.base import Params

ARGUMENT = "srgen"
"""Name among a call's extra arguments; a client of plain vLLM writes `vllm_xargs={"srgen": "{}"}`."""

MAX_WINDOW = 256


class SRGenParams(Params):
    """SRGen, arXiv 2510.02919. Defaults are those of its published script for R1-Distill-Qwen-7B."""

    window: int = Field(25, ge=2, le=MAX_WINDOW, description="N, latest entropies that the threshold comes from.")
    sensitivity: float = Field(4.0, ge=0, le=100, description="K, standard deviations above their mean.")
    warmup_threshold: float = Field(3.0, ge=0, description="Threshold in nats until there are N entropies.")
    min_std: float = Field(0.5, ge=0, description="Least standard deviation, in nats.")
    min_threshold: float = Field(1.8, ge=0, description="Least threshold, in nats.")
    entropy_weight: float = Field(0.05, ge=0, le=1, description="lambda, of the entropy against the cross-entropy.")
    steps: int = Field(3, ge=1, le=10, description="AdamW's updates of a correction.")
    learning_rate: float = Field(0.01, gt=0, le=0.1, description="AdamW's learning rate.")
    max_activations: int = Field(19, ge=1, le=1000, description="Corrected tokens of an answer at most.")
    scope: Literal["all", "generated"] = Field(
        "all", description="What the cross-entropy is taken over: prompt and answer, as published, or the answer alone."
    )


class SRGenRequest(SRGenParams):
    """The parameters, and where in its text a call begins."""

    prompt_tokens: int | None = Field(None, ge=1, description="Length of the text before its first generated token.")
    activations: int = Field(0, ge=0, description="Corrections made before this call.")

    def encode(self) -> str:
        """As a JSON string: vLLM's extra arguments hold scalars and lists only."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def read(cls, arguments: Mapping[str, Any] | None) -> "SRGenRequest | None":
        """What a call's extra arguments ask for; None if nothing. Raises ValueError."""
        value = (arguments or {}).get(ARGUMENT)
        if value is None:
            return None
        if not isinstance(value, str):
            raise ValueError(f'{ARGUMENT} must be a string of JSON, such as "{{}}" or \'{{"window": 25}}\'')
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join([ARGUMENT, *(str(part) for part in first["loc"])])
            known = ", ".join(SRGenParams.model_fields)
            raise ValueError(f"{where}: {first['msg']}; parameters are: {known}") from None
