"""Tokens as vLLM counts them, and how long it goes on to make some."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from benchmarks.load import LoadError

PROMPT, GENERATION = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting")
STEP_SECONDS = 0.1
QUIET_SECONDS = 1.5
"""Without a token or a request: longer than a gateway takes from one call to the next."""
LONGEST_SECONDS = 600.0

Counters = Callable[[], Awaitable[Mapping[str, float]]]
"""Metrics of a server, summed over their labels."""


class StillBusyError(LoadError):
    """An engine did not come to rest."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many an engine has processed; a prompt of n samples counts n times."""

    prompt: int
    completion: int

    @classmethod
    def of(cls, counters: Mapping[str, float]) -> "Tokens":
        """As its counters have them."""
        return cls(int(counters.get(PROMPT, 0)), int(counters.get(GENERATION, 0)))

    def since(self, before: "Tokens") -> dict[str, int]:
        """What has come."""
        return {"prompt": self.prompt - before.prompt, "completion": self.completion - before.completion}


async def at_rest(counters: Counters, quiet: float = QUIET_SECONDS) -> Tokens:
    """The tokens of an engine that has come to rest. Raises StillBusyError."""
    began = time.monotonic()
    seen, since = await counters(), began
    while (now := time.monotonic()) - since < quiet:
        if now - began > LONGEST_SECONDS:
            raise StillBusyError(f"an engine still works after {LONGEST_SECONDS:.0f} s")
        await asyncio.sleep(min(STEP_SECONDS, quiet))
        read = await counters()
        if Tokens.of(read) != Tokens.of(seen) or any(read.get(name) for name in BUSY):
            since = time.monotonic()
        seen = read
    return Tokens.of(seen)
