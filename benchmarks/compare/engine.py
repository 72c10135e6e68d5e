"""What an engine counts: vLLM's own counters at /metrics, against which the tokens that answers tell are checked."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

NAMES: Mapping[str, str] = {
    "prompt": "vllm:prompt_tokens_total",
    "completion": "vllm:generation_tokens_total",
    "cached": "vllm:prefix_cache_hits_total",
}
BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting")
SETTLE_SECONDS, STEP_SECONDS = 20.0, 0.2


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens that an engine processed.

    Attributes:
        prompt: of prompts, once for each sample.
        cached: of those, that the prefix cache had.
        completion: that it generated, hidden ones too.
    """

    prompt: int
    cached: int
    completion: int

    def since(self, before: Self) -> "Counted":
        """What came after an earlier look."""
        return Counted(*(getattr(self, one.name) - getattr(before, one.name) for one in fields(self)))

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


class Engine:
    """The counters behind a URL.

    Args:
        http: a client that may see them.
        url: of /metrics.
    """

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url

    async def settled(self) -> Counted | None:
        """The counters once nothing runs and two looks agree; None where there are none, or it does not come to rest
        within SETTLE_SECONDS: somebody else asks it, too.
        """
        before, deadline = await self._sums(), time.monotonic() + SETTLE_SECONDS
        while before is not None and time.monotonic() < deadline:
            await asyncio.sleep(STEP_SECONDS)
            after = await self._sums()
            if after == before and not any(after.get(name, 0.0) for name in BUSY):
                return Counted(**{name: int(after[sample]) for name, sample in NAMES.items()})
            before = after
        return None

    async def _sums(self) -> dict[str, float] | None:
        """Samples by name, summed over their labels; None unless all of NAMES are there."""
        try:
            response = await self._http.get(self._url)
            families = list(text_string_to_metric_families(response.text)) if response.is_success else []
        except (httpx.HTTPError, ValueError):
            return None
        sums: dict[str, float] = {}
        for sample in (one for family in families for one in family.samples):
            if sample.name in BUSY or sample.name in NAMES.values():
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums if sums.keys() >= set(NAMES.values()) else None
