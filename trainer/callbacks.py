"""What trl's trainers do by the way: save by the clock, and show how far they are."""

import math
import time
from typing import Any

from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import TaskID
from transformers import TrainerCallback

from trainer.serving import progress_bar


class Saving(TrainerCallback):
    """Has a checkpoint saved whenever so much time has passed: what a kill costs does not depend on a step's length."""

    def __init__(self, minutes: float) -> None:
        self._seconds = minutes * 60
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """After each step of the optimizer."""
        # One process decides for all: they save together, and their clocks differ.
        (due,) = broadcast_object_list([time.monotonic() - self._last >= self._seconds])
        if due:
            self._last = time.monotonic()
            control.should_save = True
        return control


class Finite(TrainerCallback):
    """Ends a training whose loss is no number any more: what comes of it is none either."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """What the step before came to. Raises SystemExit."""
        if "loss" in (logs or {}) and not math.isfinite(float(logs["loss"])):
            raise SystemExit(f"the loss of step {state.global_step} is {logs['loss']}: lower the learning rate")


class Shown(TrainerCallback):
    """A bar of the steps, with the last loss beside it."""

    def __init__(self, console: Console) -> None:
        self._progress = progress_bar(console)
        self._bar: TaskID | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From where a killed run goes on."""
        if state.is_world_process_zero:
            self._bar = self._progress.add_task("training", total=state.max_steps, completed=state.global_step)
            self._progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step further."""
        if self._bar is not None:
            self._progress.update(self._bar, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """What the step before came to."""
        if self._bar is not None and "loss" in (logs or {}):
            self._progress.update(self._bar, description=f"training, loss {float(logs['loss']):.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The bar stays as it is."""
        self._progress.stop()
