"""Server-sent events, cut anywhere on their way."""

from collections.abc import AsyncIterator, Sequence

import pytest

from server.engine.remote import sse
from server.engine.remote.faults import Fault


async def chunks(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def whole(parts: Sequence[bytes]) -> list[bytes]:
    return [events async for events in sse.whole_events(chunks(parts))]


async def test_events_are_put_together() -> None:
    assert await whole([b"data: a", b"\n", b"\ndata: b\n\nda", b"ta: c\n\n"]) == [
        b"data: a\n\ndata: b\n\n",
        b"data: c\n\n",
    ]


async def test_what_breaks_off_is_never_seen() -> None:
    assert await whole([b"data: a\n\ndata: b"]) == [b"data: a\n\n"]


async def test_other_line_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await whole([b"data: a\r\n\r\ndata: b\r", b"\n\r\n"]) == [b"data: a\n\n", b"data: b\n\n"]


async def test_an_event_without_end_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10)
    with pytest.raises(Fault, match="without end"):
        await whole([b"data: ", b"aaaaaaaaa"])


def test_payloads_leave_comments_out() -> None:
    assert sse.payloads(b": ping\n\ndata: a\n\ndata:b\n\n") == [b"a", b"b"]
