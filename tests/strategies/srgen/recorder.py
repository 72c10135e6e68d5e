"""A logits processor that comes after SRGen's and writes down the logits that it left, and the vectors it fitted."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import override
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from strategies.srgen import processor
from strategies.srgen.objective import Correction
from strategies.srgen.processor import Activation

if TYPE_CHECKING:
    from vllm.config import VllmConfig

ARGUMENT = "record"
"""Name among a call's extra arguments, for a file."""
DELTAS = ".deltas"
"""Ending of the file with the vectors."""


class Recorder(LogitsProcessor):
    """Appends a line for each token of the requests that ask for it; partly computed prompts have lines too."""

    def __init__(self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[str, list[int]]] = {}
        processor._correct = functools.partial(_correct, processor._correct)

    @override
    def is_argmax_invariant(self) -> bool:
        return False

    @override
    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._rows, batch_update, lambda params, prompt, output: _wanted(params, output))

    @override
    def apply(self, logits: Tensor) -> Tensor:
        for row, (path, output) in self._rows.items():
            with Path(path).open("a") as file:
                file.write(json.dumps([len(output), logits[row].tolist()]) + "\n")
        return logits


def _correct(original: Callable[..., Correction], *args: Any) -> Correction:
    correction = original(*args)
    activations: list[Activation] = args[2]
    for activation, delta in zip(activations, correction.delta, strict=True):
        if (path := (activation.text.arguments or {}).get(ARGUMENT)) is not None:
            with Path(f"{path}{DELTAS}").open("a") as file:
                file.write(json.dumps([activation.length - activation.text.boundary, delta.tolist()]) + "\n")
    return correction


def _wanted(params: Any, output: list[int]) -> tuple[str, list[int]] | None:
    path = (params.extra_args or {}).get(ARGUMENT)
    return None if path is None else (path, output)


def recorded(path: Path) -> dict[int, Tensor]:
    """The last logits [V] by number of the generated token."""
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return {number: torch.tensor(values) for number, values in lines}


def recorded_deltas(path: Path) -> dict[int, Tensor]:
    """Vectors [D] likewise."""
    return recorded(path.with_name(path.name + DELTAS))
