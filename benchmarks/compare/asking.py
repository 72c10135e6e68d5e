"""Asks what has no answer yet, block by block, and keeps each answer as soon as it is there."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from benchmarks.compare.endpoints import PATH, Endpoint, endpoints
from benchmarks.compare.errors import CompareError
from benchmarks.compare.folder import Folder
from benchmarks.compare.plan import Block, body, seed_of
from benchmarks.compare.settings import Settings
from benchmarks.load import Reply, ask
from benchmarks.suites import Item

PATIENCE_SECONDS = 600.0
"""For which a server may say that it is too busy for one request."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
LEAST_WAIT = 0.1
"""Seconds that count as waited at least, or a server that says 0 would be asked for ever."""
GONE = frozenset({0, 401, 403, 502, 503, 504})
"""Statuses of a server that is away, or wants nothing of us; 0 is a connection that breaks."""
BROKEN = 10
"""Of those one after the other, until the run ends: there is nobody."""


async def ask_all(
    settings: Settings,
    blocks: Sequence[Block],
    folder: Folder,
    url: str | None,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Puts an answer or a failure into the folder for each request of the blocks, and what the engines counted.

    Args:
        settings: of the run.
        blocks: what is asked, in this order; one runs at a time.
        folder: where answers go.
        url: of arms without an endpoint of their own.
        advance: called for each request that is over.

    Raises:
        CompareError: an endpoint does not answer at all, or does no longer.
    """
    started = await asyncio.to_thread(folder.next_block)
    async with endpoints(settings, url) as of:
        asker = _Asker(settings, folder, advance)
        for number, block in enumerate(blocks, started):
            if block.asked:
                await asker.block(number, block, of[block.arm.label])


class _Asker:
    def __init__(self, settings: Settings, folder: Folder, advance: Callable[[], None]) -> None:
        self._settings = settings
        self._folder = folder
        self._advance = advance
        self._writing = asyncio.Lock()
        self._broken = 0

    async def block(self, number: int, block: Block, endpoint: Endpoint) -> None:
        """Asks a block, with the engine at rest before and after it."""
        before = await endpoint.engine.settled()
        began, waiting, busy = time.perf_counter(), iter(block.asked), list[int]()

        async def work() -> None:
            for item, answer in waiting:
                busy.append(await self._one(number, block, item, answer, endpoint))

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self._settings.at_once, len(block.asked))):
                    workers.create_task(work())
        except* CompareError as errors:
            raise errors.exceptions[0] from None
        seconds = time.perf_counter() - began
        after = await endpoint.engine.settled() if before is not None else None
        counted = None if before is None or after is None else after.since(before).as_dict()
        line = {"block": number, "arm": block.arm.label, "requests": len(block.asked), "seconds": round(seconds, 3)}
        await self._add(self._folder.blocks.add, {**line, "busy": sum(busy), "engine": counted})

    async def _one(self, number: int, block: Block, item: Item, answer: int, endpoint: Endpoint) -> int:
        """Asks once, and again where the server is too busy; how often it was."""
        request = body(self._settings, block.arm, item, answer)
        reply, busy = await patiently(endpoint.http, request)
        self._broken = self._broken + 1 if reply.status in GONE else 0
        line = {"arm": block.arm.label, "item": item.id, "answer": answer, "block": number, "busy": busy}
        line |= {"seed": seed_of(self._settings.seed, item, answer), "error": error_of(reply)}
        await self._add(self._folder.answers.add, line | _told(reply))
        if self._broken >= BROKEN:
            raise CompareError(f"{endpoint.url} answers no longer: {reply.text}; the same command goes on")
        self._advance()
        return busy

    async def _add(self, add: Callable[[Mapping[str, Any]], None], line: Mapping[str, Any]) -> None:
        async with self._writing:
            await asyncio.to_thread(add, line)


async def patiently(http: httpx.AsyncClient, request: Mapping[str, Any]) -> tuple[Reply, int]:
    """The reply, and how often the server was too busy before; a 429 only where it was for PATIENCE_SECONDS."""
    waited, busy = 0.0, 0
    while True:
        reply = await ask(http, request, PATH)
        too_busy = reply.status == httpx.codes.TOO_MANY_REQUESTS or (
            reply.status == httpx.codes.SERVICE_UNAVAILABLE and reply.retry_after is not None
        )
        if not too_busy or waited >= PATIENCE_SECONDS:
            return reply, busy
        wait = min(FIRST_WAIT * 2**busy, LONGEST_WAIT) if reply.retry_after is None else reply.retry_after
        wait = min(wait, PATIENCE_SECONDS - waited)
        waited, busy = waited + max(wait, LEAST_WAIT), busy + 1
        await asyncio.sleep(wait)


def error_of(reply: Reply) -> str | None:
    """Why a reply is no answer, None if it is one."""
    if reply.status != httpx.codes.OK:
        return f"{reply.status or 'connection'}: {reply.text[:500]}"
    return None if reply.finish_reason else "the stream ended without a finish reason"


def _told(reply: Reply) -> dict[str, Any]:
    """What a line keeps of a reply; seconds are those of the last try alone."""
    details = reply.usage.get("prompt_tokens_details") or {}
    tokens = {
        "prompt": reply.usage.get("prompt_tokens"),
        "cached": details.get("cached_tokens"),
        "completion": reply.usage.get("completion_tokens"),
    }
    return {
        "text": reply.text,
        "calls": reply.calls,
        "first_attempt": reply.first_attempt,
        "finish_reason": reply.finish_reason,
        "tokens": tokens,
        "engine": reply.strategy.get("engine"),
        "seconds": round(reply.seconds, 4),
        "first_thought": reply.first_thought,
        "first_answer": reply.first_answer,
    }
