"""Fits folders, as `python -m trainer.fitting FOLDER` does each, in processes that share the CPU.

With --fsdp they do what several GPUs would do. accelerate reads its FSDP settings on accelerators alone: here its state
is told that this is one, and all else, from trainer/fsdp.yaml to sharding, gathering and saving, is what it does there.

With --until the last fit is killed behind its checkpoint of that step.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from accelerate import DistributedType  # type: ignore[import-untyped]
from accelerate.commands.launch import (  # type: ignore[import-untyped]
    _validate_launch_command,
    launch_command_parser,
)
from accelerate.state import AcceleratorState, PartialState  # type: ignore[import-untyped]
from accelerate.utils.launch import prepare_multi_gpu_env  # type: ignore[import-untyped]
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from trainer import fitting
from trainer.artefacts import Log
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


class Kill(TrainerCallback):
    """Kills all processes, once each has written its part of a step's checkpoint."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Behind a checkpoint."""
        if state.global_step == self._step:
            PartialState().wait_for_everyone()
            os.kill(os.getpid(), signal.SIGKILL)


def watched(trainer_of: Callable[..., Any], *more: TrainerCallback) -> Callable[..., Any]:
    """One whose trainers have more callbacks, and write down the first tokens of the rows that they train on."""

    def found(model: Any, tokenizer: Any, rows: Any, settings: Any, folder: Path, callbacks: Any) -> Any:
        trainer = trainer_of(model, tokenizer, rows, settings, folder, [*callbacks, *more])
        step, log = trainer.training_step, Log(folder / f"seen-{os.environ.get('RANK', 0)}.jsonl")

        def training_step(model: Any, inputs: Any, *args: Any) -> Any:
            # Of a pair both answers have the same.
            log.add({"step": trainer.state.global_step, "rows": sorted(set(inputs["input_ids"][:, 0].tolist()))})
            return step(model, inputs, *args)

        trainer.training_step = training_step
        return trainer

    return found


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


def main(folders: list[Path], fsdp: Annotated[bool, typer.Option("--fsdp")] = False, until: int | None = None) -> None:
    """Fits what each folder says."""
    if fsdp:
        shard()
    trainer_of = fitting.trainer_of
    for folder in folders:
        kill = [Kill(until)] if until is not None and folder == folders[-1] else []
        fitting.trainer_of = watched(trainer_of, *kill)
        fitting.main(folder)


if __name__ == "__main__":
    typer.run(main)
