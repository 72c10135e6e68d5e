import asyncio

from benchmarks.probe import probing


async def test_the_probe_asks_until_it_is_left(url: str) -> None:
    async with probing(url, period_ms=2) as seen:
        await asyncio.sleep(0.2)
        assert seen.answers == 0
    assert 5 < seen.answers <= 150
    assert seen.failures == 0
    assert 0 < seen.latency[0] <= seen.latency[-1]
    assert len(seen.latency) == len(seen.lateness) == 201
