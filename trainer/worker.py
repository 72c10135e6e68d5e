"""A process that holds a model's weights and fits adapters, one job after the other: `python -m trainer.worker`.

It reads jobs as lines of JSON, and answers in lines of JSON. When its standard input ends, whoever started it is gone:
it deletes the folder of the adapters, and ends. Of the memory that
it may take, what the model takes is not a part: a job that needs more fails, and the next one may not.

    -> {"id": 1, "folder": "...", "examples": [{"token_ids": [..], "learnt": 5}], "settings": {"rank": 8, ...}}
    -> {"cancel": 1}
    <- {"ready": true}
    <- {"id": 1, "begun": true}
    <- {"id": 1, "epoch": 1, "loss": 2.31}
    <- {"id": 1, "done": true}   or   {"id": 1, "error": "..."}
"""

import json
import os
import queue
import resource
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Annotated, Any

import typer

NICE = 10
"""The engine's own threads come first."""


class Cancelled(Exception):
    """Nobody waits for this job any more."""


def main(
    model: str,
    dtype: str,
    threads: int,
    memory_gib: float,
    scratch: Path,
    device: str = "cpu",
    fraction: float = 0.2,
    revision: str | None = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code")] = False,
) -> None:
    """Fits adapters to the checkpoint `model` until the standard input ends.

    Args:
        model: folder or Hugging Face id.
        dtype: of the weights.
        threads: that a job computes with, on a CPU.
        memory_gib: that jobs may take beside the weights, on a CPU.
        scratch: holds the folders of all jobs.
        device: cpu or cuda.
        fraction: of the GPU's memory that this process may take, weights and all.
        revision: of the checkpoint, on the Hugging Face hub.
        trust_remote_code: run the checkpoint's own code.
    """
    # What libraries print must not come between the lines.
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    os.nice(NICE)
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    Worker(model, source, dtype, threads, memory_gib, scratch, device, fraction, output).run(sys.stdin)


class Worker:
    """The model, and the jobs that wait for it."""

    def __init__(
        self,
        model: str,
        source: Mapping[str, Any],
        dtype: str,
        threads: int,
        memory_gib: float,
        scratch: Path,
        device: str,
        fraction: float,
        output: IO[str],
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]

        self._output = output
        self._scratch = scratch
        self._cancelled: set[int] = set()
        self._jobs: queue.Queue[Any] = queue.Queue()
        torch.set_num_threads(threads)
        if device != "cpu":
            torch.cuda.set_per_process_memory_fraction(fraction)
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), **source)
        self._model = loaded.to(device).eval()
        if device == "cpu":
            _bound_memory(memory_gib)

    def run(self, lines: IO[str]) -> None:
        """Answers until the lines end."""
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        self._say({"ready": True})
        while (job := self._jobs.get()) is not None:
            self._fit(job)

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            message = json.loads(line)
            if "cancel" in message:
                self._cancelled.add(message["cancel"])
            else:
                self._jobs.put(message)
        # At once, not after the jobs that wait: nobody is there to take their adapters.
        shutil.rmtree(self._scratch, ignore_errors=True)
        os._exit(0)

    def _fit(self, job: Any) -> None:
        from trainer.lora import Example, LoraSettings, fit

        number = job["id"]

        def on_step(epoch: int, loss: float) -> None:
            losses.append(loss)
            if len(losses) % len(examples) == 0:
                self._say({"id": number, "epoch": epoch, "loss": sum(losses[-len(examples) :]) / len(examples)})
            if number in self._cancelled:
                raise Cancelled

        self._say({"id": number, "begun": True})
        try:
            losses: list[float] = []
            examples = [Example(tuple(one["token_ids"]), one["learnt"]) for one in job["examples"]]
            fit(self._model, examples, LoraSettings(**job["settings"]), Path(job["folder"]), on_step)
        except Cancelled:
            self._say({"id": number, "error": "cancelled"})
        except Exception as error:
            self._say({"id": number, "error": f"{type(error).__name__}: {error}"})
        else:
            self._say({"id": number, "done": True})
        finally:
            self._cancelled.discard(number)

    def _say(self, message: Any) -> None:
        self._output.write(json.dumps(message) + "\n")


def _bound_memory(gib: float) -> None:
    """Bounds what this process may allocate beside what it has: an allocation beyond fails, and nothing else does."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[5])  # Data and stack.
    limit = pages * resource.getpagesize() + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    typer.run(main)
