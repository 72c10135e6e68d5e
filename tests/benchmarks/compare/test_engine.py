import asyncio

import httpx
import pytest

from benchmarks.compare import engine
from benchmarks.compare.engine import Counted, Engine
from tests.benchmarks.compare.gateway import Gateway


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "STEP_SECONDS", 0.01)
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.3)


async def test_counters(gateway: Gateway) -> None:
    gateway.counters |= {"prompt_tokens": 5, "generation_tokens": 7, "prefix_cache_hits": 2}
    async with httpx.AsyncClient() as http:
        before = await Engine(http, f"{gateway.url}/metrics").settled()
        assert before == Counted(5, 2, 7)
        gateway.counters["generation_tokens"] += 4
        after = await Engine(http, f"{gateway.url}/metrics").settled()
        assert after is not None
        assert after.since(before).as_dict() == {"prompt": 0, "cached": 0, "completion": 4}


async def test_the_engine_must_come_to_rest(gateway: Gateway) -> None:
    async with httpx.AsyncClient() as http:
        gateway.running = 1
        look = asyncio.create_task(Engine(http, f"{gateway.url}/metrics").settled())
        await asyncio.sleep(0.1)
        assert not look.done()
        gateway.running = 0
        assert await look == Counted(0, 0, 0)
        gateway.running = 1
        assert await Engine(http, f"{gateway.url}/metrics").settled() is None, "somebody else keeps it busy"


@pytest.mark.parametrize("text", ["", "vllm:prompt_tokens_total 5.0\n", "<html>no metrics</html>", "a{b 1"])
async def test_what_is_no_counter(gateway: Gateway, text: str) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=text))
    async with httpx.AsyncClient(transport=transport) as http:
        assert await Engine(http, "http://x/metrics").settled() is None
    async with httpx.AsyncClient() as http:
        assert await Engine(http, "http://127.0.0.1:1/metrics").settled() is None


async def test_engines_behind_one_front_are_summed() -> None:
    names = ("prompt_tokens_total", "generation_tokens_total", "prefix_cache_hits_total")
    text = "".join(f'vllm:{name}{{engine="{i}"}} {i + 1}\n' for name in names for i in range(2))
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=text))
    async with httpx.AsyncClient(transport=transport) as http:
        assert await Engine(http, "http://x/metrics").settled() == Counted(3, 3, 3)
