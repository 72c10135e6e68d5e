"""Fits folders, as `python -m trainer.fitting FOLDER` does each, in processes that share the CPU.

With --fsdp they do what several GPUs would do. accelerate reads its FSDP settings on accelerators alone: here its state
is told that this is one, and all else, from trainer/fsdp.yaml to sharding, gathering and saving, is what it does there.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from accelerate import DistributedType  # type: ignore[import-untyped]
from accelerate.commands.launch import (  # type: ignore[import-untyped]
    _validate_launch_command,
    launch_command_parser,
)
from accelerate.state import AcceleratorState  # type: ignore[import-untyped]
from accelerate.utils.launch import prepare_multi_gpu_env  # type: ignore[import-untyped]
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from trainer import fitting
from trainer.steps import FSDP

ASKED = ["--config_file", str(FSDP), "--num_processes", os.environ.get("WORLD_SIZE", "2"), "-m", "trainer.fitting"]
as_it_is = AcceleratorState.__init__


def sharded(self: Any, *args: Any, **kwargs: Any) -> None:
    """accelerate's own, and what it does for processes that have a GPU each."""
    as_it_is(self, *args, **kwargs)
    self.distributed_type = DistributedType.FSDP
    if "fsdp_plugin" in kwargs:  # Else it is only read.
        self.fsdp_plugin = kwargs["fsdp_plugin"]


class Witness(TrainerCallback):
    """Says what share of the weights a process holds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Before the first step."""
        weights = list(model.parameters())
        assert all(isinstance(weight, DTensor) for weight in weights)
        held = sum(weight.to_local().numel() for weight in weights) / sum(weight.numel() for weight in weights)
        (self._folder / f"held-{os.environ['RANK']}").write_text(str(held))


def shard() -> None:
    """As `accelerate launch` with trainer/fsdp.yaml has processes do it."""
    launched, *_ = _validate_launch_command(launch_command_parser().parse_args(ASKED))
    found = prepare_multi_gpu_env(launched)
    os.environ |= {key: value for key, value in found.items() if key.startswith(("FSDP_", "ACCELERATE_"))}
    AcceleratorState.__init__ = sharded
    trainer_of = fitting.trainer_of

    def witnessed(model: Any, tokenizer: Any, rows: Any, settings: Any, folder: Path, callbacks: Any) -> Any:
        return trainer_of(model, tokenizer, rows, settings, folder, [*callbacks, Witness(folder)])

    fitting.trainer_of = witnessed


def main(folders: list[Path], fsdp: Annotated[bool, typer.Option("--fsdp")] = False) -> None:
    """Fits what each folder says."""
    if fsdp:
        shard()
    for folder in folders:
        fitting.main(folder)


if __name__ == "__main__":
    typer.run(main)
