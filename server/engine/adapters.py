"""Adapters that are trained while a request waits: from pairs to a slot of the engine, and out of it again."""

import asyncio
import itertools
import logging
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest

from server.training import Trainer, TrainingFailed
from strategies.engine import Epoch, Example, NotTrained, Training

logger = logging.getLogger("redraft.adapters")
FIRST_ID = 2**20
"""vLLM numbers the adapters of the operator from 1."""


@dataclass(slots=True)
class _Kept:
    """An adapter's files. They are deleted once nobody uses them and nobody may find them."""

    folder: Path
    users: int = 0
    findable: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


class Adapters:
    """The slots of an engine for adapters that come and go, and those that are kept for another time.

    Args:
        client: the running AsyncLLM, with LoRA.
        trainer: fits them.
        scratch: an empty folder for them, deleted in the end.
        slots: how many may be ready at the same time; more wait, first come, first served.
        kept_bytes: how much of those that are kept stays on disk; the least recently used go first.
    """

    def __init__(self, client: Any, trainer: Trainer, scratch: Path, slots: int, kept_bytes: int) -> None:
        self._client = client
        self._trainer = trainer
        self._free = asyncio.Semaphore(slots)
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._used: dict[int, _Kept] = {}
        self._numbers = itertools.count(FIRST_ID)
        self._scratch = scratch
        self._starting: asyncio.Future[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begins to load the weights into the training process."""
        self._starting = asyncio.ensure_future(self._trainer.start())

    def fit(self, examples: Sequence[Example], training: Training, keep: str | None) -> "Fitting":
        """Fits one, and takes a slot for it."""
        return Fitting(self, examples, training, keep)

    async def recall(self, name: str) -> Any:
        """The one that is kept under a name, in a slot; None if there is none, or none that can be loaded."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        self._kept.move_to_end(name)
        try:
            return await self.load(kept)
        except NotTrained:
            if self._kept.get(name) is kept:
                self._forget(name)
            return None

    async def drop(self, adapter: Any) -> None:
        """Gives the slot back. The engine has no call with it any more."""
        # However the request ends, this does: shielded from its cancellation.
        await asyncio.shield(self._end(adapter))

    async def close(self) -> None:
        """Deletes all files, and ends the training process."""
        if self._starting is not None:
            self._starting.cancel()
        await self._trainer.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    async def train(self, examples: Sequence[Example], training: Training, folder: Path) -> AsyncGenerator[Epoch, None]:
        """The epochs of a training into a folder. Raises NotTrained."""
        try:
            job = self._trainer.fit([asdict(one) for one in examples], asdict(training), folder)
            async with aclosing(job) as epochs:
                async for number, loss in epochs:
                    yield Epoch(number, loss)
        except TrainingFailed as error:
            raise NotTrained(str(error)) from error

    def new_folder(self) -> Path:
        """An empty one. Raises NotTrained if there is no room for it."""
        try:
            return Path(tempfile.mkdtemp(dir=self._scratch))
        except OSError as error:
            logger.warning("no folder for an adapter: %s", error)
            raise NotTrained("there is no room for an adapter") from error

    async def load(self, kept: _Kept) -> Any:
        """A handle of an adapter, ready for calls. Raises NotTrained."""
        kept.users += 1
        try:
            await self._free.acquire()
        except BaseException:
            self._leave(kept)
            raise
        number = next(self._numbers)
        # Never the name of another: the prefix cache knows an adapter by it.
        request = LoRARequest(f"trained-{number}", number, str(kept.folder))
        self._used[number] = kept
        adding = asyncio.ensure_future(self._client.add_lora(request))
        try:
            await asyncio.shield(adding)
        except BaseException as error:
            ending = asyncio.ensure_future(self._end(request, adding))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            if isinstance(error, Exception):
                # What it says may hold the operator's folders: the log has it, the client does not.
                logger.warning("the engine does not take an adapter: %s", error)
                raise NotTrained("the engine does not take the adapter") from error
            raise
        return request

    def keep(self, name: str, kept: _Kept) -> None:
        """Has `recall` find it, and others no more if there is no room."""
        if name in self._kept:
            return
        kept.findable = True
        self._kept[name] = kept
        while len(self._kept) > 0 and sum(one.size for one in self._kept.values()) > self._kept_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, name: str) -> None:
        kept = self._kept.pop(name)
        kept.findable = False
        self._delete_unused(kept)

    async def _end(self, adapter: Any, adding: "asyncio.Future[bool] | None" = None) -> None:
        if adding is not None:
            await asyncio.wait([adding])
        try:
            await self._client.remove_lora(adapter.lora_int_id)
            self._forget_names()
        finally:
            self._free.release()
            self._leave(self._used.pop(adapter.lora_int_id))

    def _forget_names(self) -> None:
        """VLLM keeps every set of names of adapters that ever ran together as a sample of its metrics; each of ours has
        a name of its own. What runs now comes back with the next step.
        """
        manager = self._client.logger_manager
        for stats in [] if manager is None else manager.stat_loggers:
            if (gauge := getattr(stats, "gauge_lora_info", None)) is not None:
                gauge.clear()

    def _leave(self, kept: _Kept) -> None:
        kept.users -= 1
        self._delete_unused(kept)

    def _delete_unused(self, kept: _Kept) -> None:
        if kept.users == 0 and not kept.findable:
            shutil.rmtree(kept.folder, ignore_errors=True)


class Fitting:
    """One training, and the adapter that comes of it."""

    def __init__(self, adapters: Adapters, examples: Sequence[Example], training: Training, keep: str | None) -> None:
        self.adapter: Any = None
        self._adapters = adapters
        self._examples = examples
        self._training = training
        self._keep = keep

    async def __aiter__(self) -> AsyncGenerator[Epoch, None]:
        kept = _Kept(self._adapters.new_folder())
        try:
            async with aclosing(self._adapters.train(self._examples, self._training, kept.folder)) as epochs:
                async for epoch in epochs:
                    yield epoch
            self.adapter = await self._adapters.load(kept)
            if self._keep is not None:
                self._adapters.keep(self._keep, kept)
        finally:
            if self.adapter is None and not kept.users:
                shutil.rmtree(kept.folder, ignore_errors=True)
