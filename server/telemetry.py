"""What an operator sees of strategy runs: Prometheus metrics beside vLLM's own, and OpenTelemetry spans."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram

from strategies.base import Answer, Event, InvalidTask, Thought
from strategies.session import Call

if TYPE_CHECKING:
    from server.run import StrategyRun

logger = logging.getLogger("redraft.run")
tracer = trace.get_tracer("redraft")

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_BY = ["strategy"]

REQUESTS = Counter("redraft_strategy_requests", "Strategy runs by outcome.", [*_BY, "outcome"])
RUNNING = Gauge("redraft_strategy_running", "Strategy runs under way.", _BY)
DURATION = Histogram("redraft_strategy_duration_seconds", "Seconds from start to end of a run.", _BY, buckets=_SECONDS)
FIRST_THOUGHT = Histogram(
    "redraft_strategy_first_thought_seconds", "Seconds to the first thought.", _BY, buckets=_SECONDS
)
FIRST_ANSWER = Histogram(
    "redraft_strategy_first_answer_seconds", "Seconds to the answer's first token.", _BY, buckets=_SECONDS
)
CALLS = Counter("redraft_strategy_engine_calls", "Engine calls.", _BY)
PROMPT = Counter("redraft_strategy_prompt_tokens", "Prompt tokens, once a call.", _BY)
CACHED = Counter("redraft_strategy_cached_tokens", "Prompt tokens that the prefix cache served.", _BY)
COMPLETION = Counter("redraft_strategy_completion_tokens", "Completion tokens of all calls.", _BY)
BUDGET_STOPS = Counter("redraft_strategy_budget_stops", "Runs that a limit ended.", [*_BY, "limit"])


class RunTelemetry:
    """Watches one run."""

    def __init__(self, strategy: str) -> None:
        self._strategy = strategy
        self._began = time.monotonic()
        self._thought = False
        self._answered = False

    def event(self, event: Event) -> None:
        """Times the first thought and the first token of the answer."""
        if isinstance(event, Thought) and event.text and not self._thought:
            self._thought = True
            FIRST_THOUGHT.labels(self._strategy).observe(time.monotonic() - self._began)
        elif isinstance(event, Answer) and not self._answered:
            self._answered = True
            FIRST_ANSWER.labels(self._strategy).observe(time.monotonic() - self._began)

    def call(self, call: Call) -> None:
        """Records the span of an engine call that is over, aborted ones too: vLLM itself traces none of those."""
        began = time.time_ns() - int((time.monotonic() - call.started) * 1e9)
        span = tracer.start_span(f"engine call: {call.role or 'call'}", start_time=began)
        results = call.results
        span.set_attribute("redraft.branches", len(results))
        span.set_attribute("gen_ai.usage.output_tokens", sum(len(result.token_ids) for result in results))
        span.set_attribute("gen_ai.response.finish_reasons", [result.finish_reason for result in results])
        span.end()

    @contextmanager
    def observe(self, run: "StrategyRun") -> Iterator[None]:
        """Counts the run, whatever becomes of it, and spans it."""
        outcome = "error"
        RUNNING.labels(self._strategy).inc()
        try:
            with tracer.start_as_current_span(f"strategy {self._strategy}") as span:
                yield
                outcome = "ok"
                span.set_attribute("redraft.stop_reason", run.stop_reason)
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        except InvalidTask:
            outcome = "refused"
            raise
        finally:
            RUNNING.labels(self._strategy).dec()
            self._count(run, outcome)

    def _count(self, run: "StrategyRun", outcome: str) -> None:
        usage, seconds = run.usage, time.monotonic() - self._began
        REQUESTS.labels(self._strategy, outcome).inc()
        DURATION.labels(self._strategy).observe(seconds)
        CALLS.labels(self._strategy).inc(usage.calls)
        PROMPT.labels(self._strategy).inc(usage.prompt_tokens)
        CACHED.labels(self._strategy).inc(usage.cached_tokens)
        COMPLETION.labels(self._strategy).inc(usage.completion_tokens)
        if run.stop_reason in ("budget", "deadline", "context"):
            BUDGET_STOPS.labels(self._strategy, run.stop_reason).inc()
        logger.info(
            "run %s: %s",
            self._strategy,
            outcome,
            extra={
                "strategy": self._strategy,
                "outcome": outcome,
                "stop_reason": run.stop_reason,
                "engine_calls": usage.calls,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "seconds": round(seconds, 3),
            },
        )
