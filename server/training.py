"""The process that trains adapters, as the server sees it: bounded in time, in memory, and in what waits for it.

The worker (`trainer.worker`) has the weights in its own memory. Whatever becomes of it, jobs fail, and nothing else: a
new one is started for the next job.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from prometheus_client import Counter, Gauge, Histogram

from server.settings import Settings

if TYPE_CHECKING:
    from server.vllm_api import EngineClient

logger = logging.getLogger("redraft.training")

START_SECONDS = 120.0
"""Loading the weights takes no longer."""
LINE_BYTES = 2**20

TRAININGS = Counter("redraft_trainings", "Trainings of adapters by outcome.", ["outcome"])
WAITING = Gauge("redraft_trainings_waiting", "Trainings that wait for their turn.")
DURATION = Histogram(
    "redraft_training_duration_seconds",
    "Seconds of a training, without its wait.",
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)


class TrainingFailed(Exception):
    """There is no adapter; the text says why."""


@dataclass(frozen=True, slots=True)
class TrainerCommand:
    """What the worker is started with."""

    model: str
    dtype: str
    threads: int
    memory_gib: float
    scratch: Path
    """Holds the adapters, and is deleted if the server is killed."""
    device: str = "cpu"
    fraction: float = 0.2
    revision: str | None = None
    trust_remote_code: bool = False

    @classmethod
    def of(cls, settings: Settings, engine: "EngineClient", scratch: Path) -> Self:
        """With the weights that an engine serves, on its device."""
        return cls(
            model=engine.model_config.model,
            dtype=str(engine.model_config.dtype).removeprefix("torch."),
            threads=settings.training_threads,
            memory_gib=settings.training_memory_gib,
            scratch=scratch,
            device=engine.vllm_config.device_config.device_type,
            fraction=settings.training_gpu_share,
            revision=engine.model_config.revision,
            trust_remote_code=engine.model_config.trust_remote_code,
        )

    def arguments(self) -> Sequence[str]:
        """Of the process."""
        flags = {"--device": self.device, "--fraction": self.fraction}
        options = [str(part) for flag in flags.items() for part in flag]
        options += [] if self.revision is None else ["--revision", self.revision]
        options += ["--trust-remote-code"] if self.trust_remote_code else []
        values = (self.model, self.dtype, self.threads, self.memory_gib, self.scratch)
        return [sys.executable, "-m", "trainer.worker", *options, *(str(value) for value in values)]


class Trainer:
    """One worker and the jobs that wait for it, first come, first served.

    Args:
        command: starts the worker.
        max_waiting: jobs that may wait; one more fails at once.
        max_seconds: that one job may train.
    """

    def __init__(self, command: TrainerCommand, max_waiting: int, max_seconds: float) -> None:
        self._command = command
        self._max_waiting = max_waiting
        self._max_seconds = max_seconds
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[asyncio.subprocess.Process] | None = None
        self._number = 0

    async def start(self) -> None:
        """Starts the worker, so that the first job does not wait for it."""
        async with self._turn:
            try:
                await self._ready()
            except TrainingFailed as error:
                logger.warning("%s; the first training tries once more", error)

    async def fit(
        self, examples: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], folder: Path
    ) -> AsyncGenerator[tuple[int, float], None]:
        """Epochs and their losses as they end; then the adapter is in the folder. Leaving the iteration ends the job.

        Raises:
            TrainingFailed: too many jobs wait, the job takes too long or too much memory, or the worker died.
        """
        if self._turn.locked() and self._waiting >= self._max_waiting:
            TRAININGS.labels("refused").inc()
            raise TrainingFailed(f"{self._waiting} trainings wait already")
        self._waiting += 1
        WAITING.inc()
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
            WAITING.dec()
        outcome = "left"
        try:
            # Closed at once with this one: the next must not find its answers still being read.
            job = aclosing(self._fit({"examples": examples, "settings": settings, "folder": str(folder)}))
            with DURATION.time():
                async with job as epochs:
                    async for epoch in epochs:
                        yield epoch
            outcome = "done"
        except TrainingFailed:
            outcome = "failed"
            raise
        finally:
            self._turn.release()
            TRAININGS.labels(outcome).inc()

    async def _fit(self, job: Mapping[str, Any]) -> AsyncGenerator[tuple[int, float], None]:
        process, number = await self._begun(job)
        deadline = asyncio.get_running_loop().time() + self._max_seconds
        ended = False
        try:
            while not ended:
                async with asyncio.timeout_at(deadline):
                    answer = await self._answer(process)
                ended = "epoch" not in answer
                if "error" in answer:
                    raise TrainingFailed(answer["error"])
                if not ended:
                    yield answer["epoch"], answer["loss"]
        except TimeoutError:
            await self._kill()
            raise TrainingFailed(f"it takes longer than {self._max_seconds:g} s") from None
        finally:
            if not ended and process.returncode is None:
                _write(process, {"cancel": number})

    async def _begun(self, job: Mapping[str, Any]) -> tuple[asyncio.subprocess.Process, int]:
        """The worker that has begun a job, and the job's number. What it still does for one that was left is no part of
        this one's time, and where that takes too long another worker has the job.
        """
        for _ in range(2):
            process = await self._ready()
            self._number = number = self._number + 1
            begun = False
            _write(process, {"id": number, **job})
            try:
                async with asyncio.timeout(self._max_seconds):
                    while not begun:
                        answer = await self._answer(process)
                        begun = answer["id"] == number
                return process, number
            except TimeoutError:
                await self._kill()
            finally:
                if not begun and process.returncode is None:
                    _write(process, {"cancel": number})
        raise TrainingFailed(f"it does not begin within {self._max_seconds:g} s")

    async def close(self) -> None:
        """Ends the worker, and with it the job that it has."""
        if self._starting is not None and self._starting.cancel():
            await asyncio.wait([self._starting])
        await self._kill()

    async def _ready(self) -> asyncio.subprocess.Process:
        """The worker, started if there is none."""
        lives = self._process is not None and self._process.returncode is None
        # Whoever waits for it may leave: it starts for the next, too.
        if self._starting is None or (self._starting.done() and not lives):
            self._starting = asyncio.ensure_future(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> asyncio.subprocess.Process:
        environment = os.environ | {"OMP_NUM_THREADS": str(self._command.threads), "TRANSFORMERS_VERBOSITY": "error"}
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command.arguments(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES,
                env=environment,
                # An interrupt of the terminal is the server's to act on.
                start_new_session=True,
            )
        except OSError as error:
            raise TrainingFailed("the training process does not start") from error
        self._process = process
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._answer(process)
        except BaseException as error:
            await self._kill()
            if isinstance(error, TimeoutError):
                raise TrainingFailed("the training process does not start") from None
            raise
        return process

    async def _answer(self, process: asyncio.subprocess.Process) -> Any:
        assert process.stdout is not None
        try:
            line = await process.stdout.readline()
        except ValueError as error:  # Longer than any of its answers.
            await self._kill()
            raise TrainingFailed("the training process says what it should not") from error
        if not line:
            status = await process.wait()
            logger.warning("the training process ended with status %d; the next training starts another", status)
            raise TrainingFailed(f"the training process ended with status {status}")
        return json.loads(line)

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _write(process: asyncio.subprocess.Process, message: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message).encode() + b"\n")
