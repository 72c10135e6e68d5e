"""Server-sent events as bytes: only whole ones are passed on."""

from collections.abc import AsyncGenerator, AsyncIterator

from server.engine.remote.faults import garbage

EVENTS = "text/event-stream"
"""Their content type."""
MAX_EVENT_BYTES = 16 * 2**20
END = b"\n\n"
DONE = b"[DONE]"
"""The data of the last event."""


async def whole_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """What came so far up to the end of an event, as it comes; what breaks off within one is never seen.

    Raises:
        Fault: an event without end.
    """
    rest = b""
    async for chunk in chunks:
        data = (rest + chunk).replace(b"\r\n", b"\n")
        at = data.rfind(END)
        if at < 0:
            rest = data
        else:
            rest = data[at + len(END) :]
            yield data[: at + len(END)]
        if len(rest) > MAX_EVENT_BYTES:
            raise garbage("an event without end")


def payloads(events: bytes) -> list[bytes]:
    """The data of whole events, without comments."""
    lines = (event.removeprefix(b"data:").strip() for event in events.split(END) if event.startswith(b"data:"))
    return [line for line in lines if line]
