"""The pipe through which decoders inside the engine tell what they did."""

import os
import subprocess
import sys

import pytest

from server.engine.reports import PIPE_BYTES, ReportPipe
from strategies.reports import ARGUMENT, VARIABLE, ReportWriter


@pytest.fixture
def pipe() -> ReportPipe:
    return ReportPipe()


def test_a_report_is_there_as_soon_as_it_is_written(pipe: ReportPipe) -> None:
    writer = ReportWriter(pipe.path)
    pipe.expect("a")
    for number in range(3):
        writer.write({ARGUMENT: "a"}, {"kind": "k", "number": number})
        assert pipe.take("a") == ({"kind": "k", "number": number},)
    assert pipe.take("a") == ()


def test_each_call_gets_its_own(pipe: ReportPipe) -> None:
    writer = ReportWriter(pipe.path)
    for name in ("a", "b"):
        pipe.expect(name)
    for name in ("b", "a", "nobody", "b"):
        writer.write({ARGUMENT: name}, {"name_": name})
    assert pipe.take("a") == ({"name_": "a"},)
    assert pipe.take("b") == ({"name_": "b"},) * 2
    assert pipe.take("nobody") == ()


def test_nobody_expects_a_call_that_is_over(pipe: ReportPipe) -> None:
    writer = ReportWriter(pipe.path)
    pipe.expect("a")
    writer.write({ARGUMENT: "a"}, {})
    pipe.forget("a")
    assert pipe.take("a") == ()


@pytest.mark.parametrize("arguments", [None, {}, {ARGUMENT: 3}, {"other": "a"}])
def test_without_a_name_nothing_is_written(pipe: ReportPipe, arguments: dict[str, object] | None) -> None:
    pipe.expect("a")
    ReportWriter(pipe.path).write(arguments, {})
    assert pipe.take("a") == ()


def test_a_writer_never_waits(pipe: ReportPipe, caplog: pytest.LogCaptureFixture) -> None:
    """A server that does not read must not stop the engine: what does not fit is lost, and the log says so."""
    writer = ReportWriter(pipe.path)
    pipe.expect("a")
    report = {"text": "x" * 1000}
    for _ in range(2 * PIPE_BYTES // 1000):
        writer.write({ARGUMENT: "a"}, report)
    assert "lost" in caplog.text
    kept = pipe.take("a")
    assert set(map(len, kept)) == {1}
    assert PIPE_BYTES // 2000 < len(kept) < 2 * PIPE_BYTES // 1000
    writer.write({ARGUMENT: "a"}, {"after": True})
    assert pipe.take("a") == ({"after": True},)


def test_what_is_no_report_is_passed_over(pipe: ReportPipe) -> None:
    pipe.expect("a")
    descriptor = os.open(pipe.path, os.O_WRONLY)
    os.write(descriptor, b'nonsense\n[1]\n{"x": 1}\n{"name": "a", "good": true}\n')
    os.close(descriptor)
    assert pipe.take("a") == ({"good": True},)


def test_a_process_finds_the_pipe_by_its_environment(pipe: ReportPipe) -> None:
    pipe.expect("a")
    code = "from strategies.reports import ReportWriter; ReportWriter().write({'redraft_report': 'a'}, {'by': 'child'})"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, VARIABLE: pipe.path})
    assert pipe.take("a") == ({"by": "child"},)


def test_without_a_pipe_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    ReportWriter().write({ARGUMENT: "a"}, {})
