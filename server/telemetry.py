"""What an operator sees of strategy runs: Prometheus metrics beside vLLM's own, and OpenTelemetry spans."""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from prometheus_client import Counter, Gauge, Histogram

from server.errors import ApiError
from server.logs import request_id
from strategies.base import Answer, Event, InvalidTask, Thought
from strategies.call import Call

if TYPE_CHECKING:
    from server.run import StrategyRun

logger = logging.getLogger("redraft.run")
tracer = trace.get_tracer("redraft")

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_BY = ["strategy"]

REQUESTS = Counter("redraft_strategy_requests", "Strategy runs by outcome.", [*_BY, "outcome"])
RUNNING = Gauge("redraft_strategy_running", "Strategy runs under way.", _BY)
DURATION = Histogram(
    "redraft_strategy_duration_seconds",
    "Seconds from start to end of a run that was not refused.",
    _BY,
    buckets=_SECONDS,
)
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
    """Watches one run.

    Args:
        strategy: its name.
        parent: trace headers of the request, None if it has none.
    """

    def __init__(self, strategy: str, parent: Mapping[str, str] | None) -> None:
        self._strategy = strategy
        # An explicit context: a current span would not survive the async generators that a run goes through.
        self._span = tracer.start_span(f"strategy {strategy}", context=extract(parent or {}))
        self._context = trace.set_span_in_context(self._span)
        self._began = time.monotonic()
        self._thought = False
        self._answered = False

    def headers(self) -> Mapping[str, str] | None:
        """Trace headers that hang vLLM's own spans under this run's; None without tracing."""
        headers: dict[str, str] = {}
        inject(headers, context=self._context)
        return headers or None

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
        span = tracer.start_span(f"engine call: {call.role or 'call'}", context=self._context, start_time=began)
        results = call.results
        span.set_attribute("redraft.branches", len(results))
        span.set_attribute("gen_ai.usage.output_tokens", sum(len(result.token_ids) for result in results))
        span.set_attribute("gen_ai.response.finish_reasons", [result.finish_reason for result in results])
        span.end()

    def score(self, began: float, requests: int, tokens: int) -> None:
        """Records the span of a score that is over."""
        start = time.time_ns() - int((time.monotonic() - began) * 1e9)
        span = tracer.start_span("engine call: score", context=self._context, start_time=start)
        span.set_attribute("redraft.branches", requests)
        span.set_attribute("gen_ai.usage.output_tokens", tokens)
        span.end()

    @contextmanager
    def observe(self, run: "StrategyRun") -> Iterator[None]:
        """Counts the run, whatever becomes of it, and spans it."""
        outcome = "error"
        RUNNING.labels(self._strategy).inc()
        try:
            yield
            outcome = "ok"
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        except (InvalidTask, ApiError, ValueError):
            # What the engine calls a wrong value is the request's: a strategy's own is a StrategyFailed.
            outcome = "refused"
            raise
        except Exception as error:
            self._span.record_exception(error)
            self._span.set_status(trace.StatusCode.ERROR, str(error))
            raise
        finally:
            RUNNING.labels(self._strategy).dec()
            self._span.set_attribute("redraft.outcome", outcome)
            self._span.set_attribute("redraft.stop_reason", run.stop_reason)
            self._span.set_attribute("redraft.request_id", request_id.get())
            self._span.set_attribute("redraft.engine_calls", run.usage.calls)
            self._span.set_attribute("gen_ai.usage.input_tokens", run.usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", run.usage.completion_tokens)
            self._span.end()
            self._count(run, outcome)

    def _count(self, run: "StrategyRun", outcome: str) -> None:
        usage, seconds = run.usage, time.monotonic() - self._began
        REQUESTS.labels(self._strategy, outcome).inc()
        if outcome != "refused":
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
