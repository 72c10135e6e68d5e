"""Spans, with OpenTelemetry's own exporter into memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.limits import RunLimiter
from server.resolve import Plan
from server.run import StrategyRun
from server.settings import Settings
from strategies.base import Budget, Strategy
from strategies.best_of_n import BestOfN, BestOfNParams
from strategies.direct import Direct
from strategies.engine import Piece
from strategies.revise import Revise, ReviseParams
from strategies.self_refine import SelfRefine, SelfRefineParams
from tests.strategies.scripted import Reply, ScriptedEngine, task_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("server.telemetry.tracer", provider.get_tracer("redraft"))
    return exporter


def start(strategy: Strategy, engine: ScriptedEngine, **budget: Any) -> tuple[StrategyRun, AsyncIterator[Piece]]:
    plan = Plan(None, None, strategy, [], Budget(**budget))
    run = StrategyRun(plan, lambda event: None, Settings(), RunLimiter(1, 0))
    headers = run.trace(HEADERS)
    assert headers is not None
    assert headers["traceparent"].split("-")[1] == TRACE
    return run, run.answer(task_of(), engine, None)


def split(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The run's span and those of its calls."""
    spans = exporter.get_finished_spans()
    (run,) = (span for span in spans if span.name.startswith("strategy "))
    return run, [span for span in spans if span.name.startswith("engine call")]


def assert_parented(run: ReadableSpan, calls: list[ReadableSpan]) -> None:
    assert run.parent is not None
    assert f"{run.parent.span_id:016x}" == PARENT
    for call in calls:
        assert call.parent is not None
        assert call.parent.span_id == run.context.span_id
        assert f"{call.context.trace_id:032x}" == TRACE
        assert run.start_time is not None
        assert call.start_time is not None
        assert call.end_time is not None
        assert call.start_time <= call.end_time


async def test_a_run_has_one_span_and_each_call_one_under_it(exporter: InMemorySpanExporter) -> None:
    engine = ScriptedEngine(["a draft", "it is wrong", "better", "no fault"])
    _, answer = start(SelfRefine(SelfRefineParams()), engine)
    assert [piece async for piece in answer]
    run, calls = split(exporter)
    assert run.name == "strategy self_refine"
    assert [call.name for call in calls] == [
        "engine call: draft",
        "engine call: critique",
        "engine call: revision",
        "engine call: critique",
    ]
    assert_parented(run, calls)
    assert run.attributes is not None
    assert run.attributes["redraft.outcome"] == "ok"
    assert run.attributes["redraft.stop_reason"] == "no_fault"
    assert [(call.attributes or {})["gen_ai.usage.output_tokens"] for call in calls] == [2, 3, 1, 2]


async def test_branches_of_one_call_share_its_span(exporter: InMemorySpanExporter) -> None:
    _, answer = start(BestOfN(BestOfNParams(samples=3)), ScriptedEngine(["a b", "a", "a b c"]))
    assert [piece async for piece in answer]
    run, (call,) = split(exporter)
    assert_parented(run, [call])
    assert call.attributes is not None
    assert call.attributes["redraft.branches"] == 3
    assert call.attributes["gen_ai.usage.output_tokens"] == 6
    assert call.attributes["gen_ai.response.finish_reasons"] == ("stop", "stop", "stop")


async def test_a_score_has_a_span_too(exporter: InMemorySpanExporter) -> None:
    _, answer = start(Revise(ReviseParams(mode="prompted", rounds=0)), ScriptedEngine(["42"]))
    assert [piece async for piece in answer]
    run, calls = split(exporter)
    assert_parented(run, calls)
    attempt, score = sorted(calls, key=lambda call: call.name)
    assert (attempt.name, score.name) == ("engine call: attempt", "engine call: score")
    attributes = score.attributes or {}
    assert attributes["redraft.branches"] == attributes["gen_ai.usage.output_tokens"] == 12
    assert (run.attributes or {})["redraft.engine_calls"] == 2


async def test_a_client_that_leaves_ends_both_spans(exporter: InMemorySpanExporter) -> None:
    engine = ScriptedEngine([Reply("one two three", hold_at=2)])
    run, answer = start(Direct(), engine)

    async def read() -> None:
        async with aclosing(answer) as pieces:  # type: ignore[type-var]
            async for _ in pieces:
                pass

    task = asyncio.create_task(read())
    await engine.until_held()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await run.close()
    span, (call,) = split(exporter)
    assert_parented(span, [call])
    assert span.attributes is not None
    assert span.attributes["redraft.outcome"] == "cancelled"
    assert call.attributes is not None
    assert call.attributes["gen_ai.response.finish_reasons"] == ("abort",)
    assert call.attributes["gen_ai.usage.output_tokens"] == 2


async def test_an_engine_that_fails_ends_both_spans(exporter: InMemorySpanExporter) -> None:
    _, answer = start(Direct(), ScriptedEngine([Reply("one two", fail_at=1)]))
    with pytest.raises(Exception, match="branch 0"):
        assert [piece async for piece in answer]
    span, (call,) = split(exporter)
    assert_parented(span, [call])
    assert (span.attributes or {})["redraft.outcome"] == "error"


async def test_a_budget_shows_in_the_span(exporter: InMemorySpanExporter) -> None:
    _, answer = start(Direct(), ScriptedEngine(["one two three"]), max_tokens=2)
    assert len([piece async for piece in answer]) == 2
    span, _ = split(exporter)
    assert (span.attributes or {})["redraft.stop_reason"] == "budget"


async def test_without_tracing_there_are_no_headers() -> None:
    run = StrategyRun(Plan(None, None, Direct(), [], Budget()), lambda event: None, Settings(), RunLimiter(1, 0))
    assert run.trace(None) is None
