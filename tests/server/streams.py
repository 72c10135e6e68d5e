"""Server-sent events as they come over the wire, with the time of each."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.servers import Server


@dataclass(frozen=True)
class Line:
    """One event of a stream."""

    at: float
    """Seconds from the request."""
    data: dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """A whole stream."""

    lines: list[Line]
    comments: list[float]
    """When each SSE comment came."""
    done: bool
    """Whether [DONE] came, and came last."""

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [line.data for line in self.lines]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [choice["delta"] for chunk in self.chunks for choice in chunk["choices"]]

    def joined(self, field: str) -> str:
        """All deltas of a field, one after the other."""
        return "".join(delta.get(field) or "" for delta in self.deltas)

    def of_event(self, event: str) -> list[Line]:
        """Chunks whose `strategy` says this event."""
        return [line for line in self.lines if (line.data.get("strategy") or {}).get("event") == event]

    @property
    def report(self) -> dict[str, Any]:
        """The `strategy` object of the chunk with the finish reason."""
        (found,) = (c["strategy"] for c in self.chunks for choice in c["choices"] if choice["finish_reason"])
        report: dict[str, Any] = found
        return report


def record(server: Server, path: str, body: dict[str, Any]) -> Recording:
    """Posts and reads the stream to its end."""
    lines, comments, done = list[Line](), list[float](), False
    began = time.monotonic()
    with server.http as http, http.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        for text in _nonempty(response.iter_lines()):
            at = time.monotonic() - began
            assert not done, f"after [DONE]: {text}"
            if text.startswith(":"):
                comments.append(at)
            elif text == "data: [DONE]":
                done = True
            elif text.startswith("data: "):
                lines.append(Line(at, json.loads(text.removeprefix("data: "))))
            else:
                assert text.startswith("event: "), text
    return Recording(lines, comments, done)


def _nonempty(lines: Iterator[str]) -> Iterator[str]:
    return (line for line in lines if line)
