"""How long a server takes to answer GET /health while it does other work.

A process of its own, `python -m benchmarks.probe HOST PORT PERIOD_MS`, with a blocking socket: it must not wait for the
load generator. It asks until its standard input is closed, then prints what it saw as JSON.
"""

import asyncio
import json
import select
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from benchmarks.stats import profile

PERIOD_MS = 5.0


@dataclass
class Latencies:
    """What a probe prints: quantiles in ms of the answers' latency and of its own lateness, a floor for the first."""

    answers: int = 0
    failures: int = 0
    latency: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)


@asynccontextmanager
async def probing(url: str, period_ms: float = PERIOD_MS) -> AsyncIterator[Latencies]:
    """Probes a server while the context is open; the yielded latencies are complete once it is left."""
    parts = urlsplit(url)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.probe", str(parts.hostname), str(parts.port), str(period_ms)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    latencies = Latencies()
    try:
        assert process.stdout is not None
        await process.stdout.readline()  # It has its first answer.
        yield latencies
    finally:
        printed, _ = await process.communicate(b"")
        vars(latencies).update(json.loads(printed or b"{}"))


def probe(host: str, port: int, period: float, stop: Any) -> Latencies:
    """Asks every `period` seconds, or as soon as the last answer is there, until `stop` can be read."""
    request = f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    latency, lateness, failures = [], [], 0
    with socket.create_connection((host, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = time.perf_counter()
        while True:
            sent = time.perf_counter()
            connection.sendall(request)
            failures += not _read_answer(connection)
            latency.append((time.perf_counter() - sent) * 1000)
            if len(latency) == 1:
                print("started", flush=True)
            due = max(due + period, time.perf_counter())
            if select.select([stop], [], [], max(0.0, due - time.perf_counter()))[0]:
                break
            lateness.append(max(0.0, time.perf_counter() - due) * 1000)
    return Latencies(len(latency), failures, profile(latency), profile(lateness or [0.0]))


def _read_answer(connection: socket.socket) -> bool:
    """Reads one response without a body; whether it is a 200."""
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        received = connection.recv(4096)
        if not received:
            raise ConnectionError("the server closed the connection")
        answer += received
    return answer.startswith(b"HTTP/1.1 200")


if __name__ == "__main__":
    print(json.dumps(vars(probe(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000, sys.stdin))))
