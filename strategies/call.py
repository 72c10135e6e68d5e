"""One engine call of one or more branches side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from strategies.engine import Generation, Piece, Prompt, Report, Sampling, Stream, TokenLogprobs

if TYPE_CHECKING:
    from strategies.session import Session


@dataclass(slots=True)
class _Branch:
    """One branch of a call while it runs."""

    stream: Stream
    sampling: Sampling
    cut: bool
    """The budget granted it fewer tokens than it asked for."""
    prompt_tokens: int
    reports: list[Report]
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    last: Piece | None = None
    cached: int | None = None
    """Tokens of its prompt that the cache served, as far as they have been counted."""
    counts: bool = False
    """The prompt that the call's branches share has been counted with this one."""
    settled: bool = False
    """Its unused tokens have been given back."""

    @property
    def running(self) -> bool:
        return self.last is None or self.last.finish_reason is None

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.token_ids.extend(piece.token_ids)
        self.logprobs.extend(piece.logprobs or ())
        self.reports.extend(piece.reports)
        self.last = piece

    def generation(self, index: int) -> Generation:
        last = self.last
        return Generation(
            text="".join(self.texts),
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs) if self.sampling.logprobs is not None else None,
            branch=index,
            finish_reason="abort" if last is None or last.finish_reason is None else last.finish_reason,
            stop_reason=None if last is None else last.stop_reason,
            prompt_tokens=self.prompt_tokens,
            reports=tuple(self.reports),
        )


class Call:
    """One engine call of one or more branches side by side. Iterate it for the pieces as they come.

    After the iteration `results` holds every branch, in order; a branch that a limit or `stop` cut short holds what
    it had.
    """

    def __init__(
        self,
        session: Session,
        prompt: Prompt,
        samplings: Sequence[Sampling],
        adapter: Any,
        *,
        role: str = "",
        first_branch: int = 0,
        continues: Sequence[Generation | None] = (),
    ) -> None:
        self._session = session
        self._prompt = prompt
        self._samplings = samplings
        self._adapter = adapter
        self._continues = continues or [None] * len(samplings)
        self._branches: list[_Branch] = []
        self._pieces: asyncio.Queue[Piece | BaseException] = asyncio.Queue()
        self._pumps: list[asyncio.Task[None]] = []
        self._prompt_counted = False
        self._closing: asyncio.Task[None] | None = None
        self.started = time.monotonic()
        self.role = role
        self.first_branch = first_branch

    @property
    def results(self) -> list[Generation]:
        """Every branch as far as it has come."""
        return [branch.generation(index) for index, branch in enumerate(self._branches)]

    @property
    def result(self) -> Generation:
        """The only branch of a call of one."""
        return self.results[0]

    @property
    def running(self) -> bool:
        """Whether a branch of it has not ended."""
        return any(branch.running for branch in self._branches)

    @property
    def unspent(self) -> int:
        """Tokens of the budget that its branches have reserved and not used."""
        return sum(b.sampling.max_tokens - len(b.token_ids) for b in self._branches if not b.settled)

    async def stop(self, branch: int | None = None) -> None:
        """Ends one branch, or all; the pieces that the engine has made until then still come."""
        chosen = self._branches if branch is None else [self._branches[branch]]
        await asyncio.gather(*(b.stream.stop() for b in chosen if b.running))

    async def finish(self) -> Self:
        """Runs to the end without looking at the pieces."""
        async for _ in self:
            pass
        return self

    async def __aiter__(self) -> AsyncIterator[Piece]:
        self._start()
        running = len(self._branches)
        try:
            while running:
                piece = await self._pieces.get()
                if isinstance(piece, BaseException):
                    raise piece
                if piece.finish_reason is not None:
                    running -= 1
                yield piece
        finally:
            await self.close()

    async def close(self) -> None:
        """Stops what still runs, counts it to the last token, and gives the unused budget back. Idempotent."""
        if self._closing is None and self._session.is_open(self):
            self._closing = asyncio.create_task(self._close())
        if self._closing is not None:
            # Shielded: a client that leaves cancels this task, but the engine's work must end all the same.
            await asyncio.shield(self._closing)

    def _start(self) -> None:
        granted = self._session.reserve(self, self._prompt, self._samplings)
        for (sampling, cut), before in zip(granted, self._continues, strict=False):
            stream = self._session.engine.generate(self._prompt, sampling, self._adapter)
            prompt_tokens = len(self._prompt) if before is None else before.prompt_tokens
            reports = [] if before is None else list(before.reports)
            self._branches.append(_Branch(stream, sampling, cut, prompt_tokens, reports))
        for index, branch in enumerate(self._branches):
            self._pumps.append(asyncio.create_task(self._pump(index, branch)))

    async def _pump(self, index: int, branch: _Branch) -> None:
        try:
            async for piece in branch.stream:
                # As vLLM counts it: with the first token, not for a branch that was cut while its prompt was computed.
                if branch.cached is not None or piece.token_ids:
                    self._count_prompt(branch, piece)
                self._session.usage.completion_tokens += len(piece.token_ids)
                piece = replace(piece, branch=index)
                branch.add(piece)
                if not branch.running:
                    self._settle(branch)  # At once: what goes on from it may need them before the others have ended.
                for report in piece.reports:
                    self._session.on_report(report, self, index)
                self._pieces.put_nowait(piece)
            if branch.running:
                # Stopped before its first token: an empty branch is a finished one.
                branch.add(Piece("", branch=index, finish_reason="abort"))
                self._pieces.put_nowait(Piece("", branch=index, finish_reason="abort"))
        except Exception as error:
            self._session.failures.append(error)
            self._pieces.put_nowait(error)

    def _count_prompt(self, branch: _Branch, piece: Piece) -> None:
        """With a branch's first token. What the cache served of it, an engine may tell with the last one only."""
        usage, length = self._session.usage, len(self._prompt)
        if branch.cached is None:
            branch.cached, branch.counts, self._prompt_counted = 0, not self._prompt_counted, True
            usage.engine_prompt_tokens += length
            usage.prompt_tokens += length if branch.counts else 0
        more = max(piece.cached_tokens - branch.cached, 0)
        branch.cached += more
        usage.engine_cached_tokens += more
        usage.cached_tokens += more if branch.counts else 0

    async def _close(self) -> None:
        if any(not pump.done() for pump in self._pumps):
            # A stop that fails has a dead engine behind it, of which the streams themselves tell.
            await asyncio.gather(self.stop(), return_exceptions=True)
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for branch in self._branches:
            self._settle(branch)
        cut = any(b.cut and b.last is not None and b.last.finish_reason == "length" for b in self._branches)
        self._session.release(self, cut=cut)

    def _settle(self, branch: _Branch) -> None:
        if not branch.settled:
            branch.settled = True
            self._session.give_back(branch.sampling.max_tokens - len(branch.token_ids))
