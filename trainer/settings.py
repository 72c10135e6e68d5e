"""How rows are fitted. Nothing of what fits them is imported here, so that commands begin at once."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Lora(BaseModel):
    """An adapter in place of the weights themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(16, ge=1, description="Of all linear layers.")
    alpha: int = Field(32, ge=1, description="What it adds is scaled by alpha over rank.")


class FitSettings(BaseModel):
    """How rows are fitted. Defaults are those of ReVISE's stages (arXiv 2502.14565)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(1e-5, gt=0, description="The largest.")
    epochs: float = Field(1.0, gt=0, description="Over the rows.")
    batch: int = Field(64, ge=1, description="Rows a step.")
    micro_batch: int = Field(16, ge=1, description="Of those, in one forward pass.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps.")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field("cosine", description="Of the learning rate.")
    beta: float = Field(0.1, gt=0, description="Of DPO.")
    dpo_weight: float = Field(1.0, ge=0, description="Of the preference.")
    nll_weight: float = Field(0.1, ge=0, description="Of the chosen answers' likelihood beside it.")
    frozen: float = Field(0.0, ge=0, lt=1, description="Share of the layers, from the first, that stay as they are.")
    freeze_embeddings: bool = Field(False, description="Embeddings too, and a head that is tied to them.")
    lora: Lora | None = Field(None, description="Fit an adapter; merged in the end where a new token needs it.")
    merge: bool = Field(True, description="Write an adapter into the weights, so that it is a checkpoint.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of weights and products.")
    autocast: bool = Field(False, description="Products in bfloat16 where the machine has instructions for them.")
    checkpointing: bool = Field(False, description="Compute activations again in place of keeping them.")
    save_minutes: float = Field(5.0, gt=0, description="Between checkpoints that a killed run goes on with.")
    seed: int = Field(0, description="Of the order of the rows, and of an adapter's first weights.")
    processes: int = Field(1, ge=1, description="Of accelerate, each with its share of a batch.")

    @model_validator(mode="after")
    def _all_of_it_is_used(self) -> Self:
        if self.dpo_weight == self.nll_weight == 0:
            raise ValueError("dpo_weight and nll_weight are both 0: there is no loss")
        if self.lora is None and not self.merge:
            raise ValueError("merge = false is for lora")
        if self.lora is not None and (self.frozen or self.freeze_embeddings):
            raise ValueError("beside lora, which trains nothing else, frozen and freeze_embeddings have no meaning")
        if self.batch % (self.micro_batch * self.processes):
            raise ValueError(
                f"batch {self.batch} is no multiple of micro_batch {self.micro_batch} x processes {self.processes}"
            )
        return self

    @property
    def whole(self) -> bool:
        """Whether a checkpoint comes of it, rather than an adapter."""
        return self.lora is None or self.merge
