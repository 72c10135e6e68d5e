"""One strategy run of one request: from the task that vLLM's serving classes prepared to the answer they render."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import replace
from typing import Any, cast

from server.errors import ApiError, StrategyFailed
from server.limits import RunLimiter
from server.resolve import Plan
from server.settings import Settings
from server.telemetry import RunTelemetry
from strategies.base import Answer, Budget, Event, InvalidTask, Note, Task, Thought
from strategies.call import Call
from strategies.engine import Engine, Piece, Report
from strategies.sampling import Role
from strategies.session import Session, Usage, run

logger = logging.getLogger("redraft.run")


class StrategyRun:
    """Runs a plan once. Thoughts and notes go to `sink` as they come, the answer to whoever iterates `answer`.

    Args:
        plan: what was asked for.
        sink: takes every thought and note, at once.
        settings: the operator's bounds on a run.
        limiter: where the run queues for its turn.
        include_reasoning: whether the client wants to see the model's thoughts; else notes hold numbers only.
    """

    def __init__(
        self,
        plan: Plan,
        sink: Callable[[Event], None],
        settings: Settings,
        limiter: RunLimiter,
        include_reasoning: bool = True,
    ) -> None:
        self.plan = plan
        self.notes: list[Note] = []
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the request is known to be runnable; holds the error if it is not."""
        self._sink = sink
        self._limiter = limiter
        self._include_reasoning = include_reasoning
        self._max_prompt_tokens = settings.max_prompt_tokens
        self._budget = Budget(
            max_tokens=_least(plan.budget.max_tokens, settings.max_run_tokens),
            max_seconds=_least(plan.budget.max_seconds, settings.max_run_seconds),
        )
        self._telemetry: RunTelemetry | None = None
        self._session: Session | None = None
        self._visible_tokens = 0
        self._began = time.monotonic()
        self._seconds: float | None = None

    def trace(self, parent: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """Starts the run's span under the request's trace; returns the trace headers of its engine calls."""
        self._telemetry = RunTelemetry(self.plan.name, parent)
        return self._telemetry.headers()

    async def answer(self, task: Task, engine: Engine, adapter: Any) -> AsyncIterator[Piece]:
        """The pieces of the final answer. Leaving the iteration, by whatever way, ends the engine's work.

        Raises:
            InvalidTask: the strategy cannot serve this request; before any engine call.
            ApiError: 429, too many runs wait already.
        """
        telemetry = self._telemetry or RunTelemetry(self.plan.name, None)
        with telemetry.observe(self), self._telling_ready():
            self._check(task, engine)
            self._session = session = Session(
                engine,
                max_tokens=self._budget.max_tokens,
                max_seconds=self._budget.max_seconds,
                adapter=adapter,
                decode=self.plan.decode,
                on_call=telemetry.call,
                on_report=self._tell_report,
                on_score=telemetry.score,
            )
            with self._blaming(session):
                async with session, aclosing(run(self._in_turn(task, session), session)) as events:  # type: ignore[type-var]
                    async for event in events:
                        telemetry.event(event)
                        if isinstance(event, Answer):
                            self._visible_tokens += len(event.piece.token_ids) - event.piece.given
                            yield event.piece
                        else:
                            self._tell(event)
            self._seconds = time.monotonic() - self._began

    async def _in_turn(self, task: Task, session: Session) -> AsyncIterator[Event]:
        """The strategy's events, once it is this run's turn. To wait takes of the deadline too."""
        async with AsyncExitStack() as stack:
            slot = self._limiter.slot(accepted=lambda: self.ready.set_result(None))
            await session.bounded(stack.enter_async_context(slot))
            async with aclosing(self.plan.strategy.run(task, session)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event

    def _tell_report(self, report: Report, call: Call, branch: int) -> None:
        self._tell(replace(self.plan.note(report), branch=call.first_branch + branch, role=cast(Role, call.role)))

    def _tell(self, event: Thought | Note) -> None:
        if isinstance(event, Note):
            event = event if self._include_reasoning else without_text(event)
            self.notes.append(event)
        elif not self._include_reasoning:
            return
        self._sink(event)

    @contextmanager
    def _telling_ready(self) -> Iterator[None]:
        """Lets whoever waits for `ready` know of an error before it."""
        try:
            yield
        except Exception as error:
            if not self.ready.done():
                self.ready.set_exception(error)
                self.ready.exception()  # Marked as seen: whoever does not stream gets it from this very raise.
            raise

    @contextmanager
    def _blaming(self, session: Session) -> Iterator[None]:
        """Tells a strategy's own fault from a request's: vLLM's handlers take any ValueError for the latter."""
        try:
            yield
        except Exception as error:
            if isinstance(error, ApiError) or any(error is failure for failure in session.failures):
                raise
            logger.exception("strategy %s failed", self.plan.name)
            raise StrategyFailed(f"the strategy {self.plan.name} failed; the server's log says why") from error

    def _check(self, task: Task, engine: Engine) -> None:
        """Refuses what cannot be run, before it waits or costs anything."""
        likeliest, most = task.sampling.logprobs, engine.capabilities.max_logprobs
        if likeliest is not None and not 0 <= likeliest <= most:
            raise InvalidTask(f"top_logprobs is {likeliest}; with a strategy it is 0 to {most}", "top_logprobs")
        if twice := [decoder.name for decoder in self.plan.decoders if decoder.name in task.sampling.extra]:
            raise InvalidTask(f"{twice[0]} is in the strategy and in vllm_xargs; say it once", "vllm_xargs")
        for plugin in (self.plan.strategy, *self.plan.decoders):
            if lacking := sorted(plugin.needs - engine.capabilities.names):
                # The engine has it, or the plan had been refused.
                raise InvalidTask(
                    f"with this adapter the engine cannot run {plugin.name}: {', '.join(lacking)}", "model"
                )
        sampling = task.sampling
        shaped = sampling.grammar is not None or sampling.logprobs is not None or task.tools or task.continues
        if shaped and "tokens" not in engine.capabilities.names:
            raise InvalidTask(
                "tools, response_format, logprobs and unfinished messages with a strategy need an engine that takes "
                "tokens; this one takes messages alone"
            )
        self.plan.strategy.check(task, engine)
        if self._max_prompt_tokens is not None and len(task.prompt) > self._max_prompt_tokens:
            raise InvalidTask(
                f"the prompt has {len(task.prompt)} tokens; a strategy takes {self._max_prompt_tokens} at most",
                "messages",
            )

    async def close(self) -> None:
        """Ends the engine's work. For a client that left; idempotent."""
        if self._session is not None:
            await self._session.__aexit__(None, None, None)

    @property
    def usage(self) -> Usage:
        """Tokens and calls so far."""
        return Usage() if self._session is None else self._session.usage

    @property
    def failures(self) -> Sequence[Exception]:
        """Errors that the engine raised."""
        return () if self._session is None else self._session.failures

    @property
    def hidden_tokens(self) -> int:
        """Completion tokens that are no part of the answer."""
        return self.usage.completion_tokens - self._visible_tokens

    @property
    def stop_reason(self) -> str:
        """Why the run ended: a limit, what the strategy gave as its reason, or `finished`."""
        if self._session is not None and self._session.limit is not None:
            return self._session.limit
        reasons = [note.data["reason"] for note in self.notes if note.kind == "stop" and "reason" in note.data]
        return str(reasons[-1]) if reasons else "finished"

    def chat_usage(self, answer_reasoning: int = 0) -> dict[str, Any]:
        """`usage` of a chat completion; `answer_reasoning` counts the reasoning tokens within the visible answer."""
        usage = self.usage
        return {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.hidden_tokens + answer_reasoning},
        }

    def report(self) -> dict[str, Any]:
        """The response's `strategy` object."""
        usage = self.usage
        return {
            "name": self.plan.name,
            "params": self.plan.params(),
            "budget": self._budget.model_dump(),
            "rounds": 0 if self._session is None else self._session.rounds,
            "engine_calls": usage.calls,
            "stop_reason": self.stop_reason,
            "seconds": round(time.monotonic() - self._began if self._seconds is None else self._seconds, 3),
            "engine": {
                "requests": usage.branches,
                "prompt_tokens": usage.engine_prompt_tokens,
                "cached_tokens": usage.engine_cached_tokens,
                "completion_tokens": usage.completion_tokens,
            },
            "notes": [note_object(note) for note in self.notes],
        }


def without_text(note: Note) -> Note:
    """A note without what the model wrote."""
    numbers = {name: value for name, value in note.data.items() if isinstance(value, bool | int | float)}
    keep = {"reason": note.data["reason"]} if "reason" in note.data else {}
    return replace(note, text="", data={**numbers, **keep})


def note_object(note: Note) -> dict[str, Any]:
    """A note as clients see it."""
    return {"kind": note.kind, "text": note.text, "branch": note.branch, "role": note.role, **note.data}


def event_object(event: Event) -> dict[str, Any]:
    """What stands beside a streamed delta, so that a client can draw branches."""
    if isinstance(event, Thought):
        return {"event": "thought", "branch": event.branch, "role": event.role, "note": None}
    if isinstance(event, Note):
        return {"event": "note", "branch": event.branch, "role": event.role, "note": note_object(event)}
    return {"event": "answer", "branch": event.piece.branch, "role": "final", "note": None}


class Transcript:
    """Thoughts of an answer that is not streamed, joined by branch: branches ran side by side, a reader reads one."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, int], list[str]] = {}
        self._seen = False

    def __call__(self, event: Event) -> None:
        """Takes an event of the run."""
        self._seen = True
        if isinstance(event, Thought) and event.text:
            self._texts.setdefault((event.role, event.branch), []).append(event.text)

    def text(self) -> str | None:
        """All thoughts, each branch under its name; empty if there were only notes, None if there was nothing."""
        parts = [f"[{role} {branch}]\n{''.join(texts)}" for (role, branch), texts in self._texts.items()]
        return "\n\n".join(parts) if self._seen else None


def _least(first: float | None, second: float | None) -> Any:
    values = [value for value in (first, second) if value is not None]
    return min(values) if values else None
