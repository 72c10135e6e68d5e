"""Generators read as one."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from strategies.merge import Merge


async def words(text: str, closed: list[str] | None = None) -> AsyncGenerator[str, None]:
    try:
        for word in text.split():
            await asyncio.sleep(0)
            yield word
    finally:
        if closed is not None:
            closed.append(text)


async def test_side_by_side() -> None:
    merged = Merge[str]()
    merged.add(words("a b c"))
    merged.add(words("x y"))
    found = [word async for word in merged]
    assert sorted(found) == list("abcxy")
    assert found.index("x") < found.index("c")
    assert [word for word in found if word in "abc"] == ["a", "b", "c"]


async def test_one_may_add_another() -> None:
    merged = Merge[str]()

    async def first() -> AsyncGenerator[str, None]:
        yield "a"
        merged.add(words("b c"))

    merged.add(first())
    assert [word async for word in merged] == ["a", "b", "c"]


async def test_nothing_is_nothing() -> None:
    assert [word async for word in Merge[str]()] == []


async def test_an_error_ends_all() -> None:
    closed: list[str] = []

    async def broken() -> AsyncGenerator[str, None]:
        yield "a"
        raise ValueError("broken")

    merged = Merge[str]()
    merged.add(words("b " * 1000, closed))
    merged.add(broken())
    with pytest.raises(ValueError, match="broken"):
        async for _ in merged:
            pass
    assert len(closed) == 1


async def test_leaving_ends_all() -> None:
    closed: list[str] = []
    merged = Merge[str]()
    for text in ("a " * 1000, "b " * 1000):
        merged.add(words(text, closed))
    iterator = merged.__aiter__()
    await anext(iterator)
    await iterator.aclose()  # type: ignore[attr-defined]
    assert len(closed) == 2
