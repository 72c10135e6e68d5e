"""Scores of given tokens, from a real engine, against Hugging Face."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from strategies.engine import Cost, Prompt, Sampling
from strategies.session import Exhausted, Session
from tests.engines import SHARED

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

    from server.engine.embedded import EmbeddedEngine

pytestmark = pytest.mark.asyncio(loop_scope="session")
BLOCK, CONTEXT = 32, SHARED["max_model_len"]
TOLERANCE = 1e-5


@pytest.fixture
def client(shared_engine: "AsyncLLM") -> "AsyncLLM":
    return shared_engine


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="eager")


@pytest.fixture
def engine(client: "AsyncLLM") -> "EmbeddedEngine":
    from server.engine.embedded import CallOptions, EmbeddedEngine

    unused: Any = None
    return EmbeddedEngine(client, unused, CallOptions("test", unused))


def text(length: int, seed: int) -> tuple[int, ...]:
    draw = random.Random(seed)
    return tuple(draw.randrange(256) for _ in range(length))


def expected(model: Any, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *continuation]])).logits[0]
    logprobs = logits.log_softmax(-1)
    return [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(continuation)]


@pytest.mark.parametrize("length", [1, 5, 31, 32, 33, 64, 100, 200])
async def test_scores_are_exact(engine: "EmbeddedEngine", model: Any, length: int) -> None:
    """The same whether nothing, the prompt, or the continuations too are in the prefix cache."""
    prompt = text(length, seed=length)
    continuations = [text(count, seed=count) for count in (1, 2, 30, 70)]
    for _ in range(3):
        found = await engine.score(Prompt(prompt), continuations)
        for scored, continuation in zip(found, continuations, strict=True):
            assert list(scored.logprobs) == pytest.approx(
                expected(model, prompt, continuation), rel=TOLERANCE, abs=TOLERANCE
            )
            assert scored.total == pytest.approx(sum(scored.logprobs))


async def test_the_prompt_is_shared(engine: "EmbeddedEngine") -> None:
    prompt = text(10 * BLOCK + 5, seed=1000)
    costs: list[Cost] = []
    await engine.score(Prompt(prompt), [(1, 2), (3,), (4, 5, 6)], on_cost=costs.append)
    assert len(costs) <= 1 + 3 + 2
    assert sum(cost.prompt_tokens - cost.cached_tokens for cost in costs) < len(prompt) + 6 * 2 * BLOCK


async def test_likely_tokens_take_one_request(engine: "EmbeddedEngine", model: Any) -> None:
    """However many are asked for."""
    import torch

    prompt = text(2 * BLOCK, seed=1050)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    likely = logits.topk(20).indices.tolist()
    costs: list[Cost] = []
    found = await engine.score(Prompt(prompt), [(token,) for token in likely], on_cost=costs.append)
    assert len(costs) == 1
    expected = logits.log_softmax(-1)[likely].tolist()
    assert [scored.total for scored in found] == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.parametrize("length", [3 * BLOCK, 3 * BLOCK + 1, 4 * BLOCK - 1])
async def test_a_prompt_that_ends_with_a_block_costs_no_more(engine: "EmbeddedEngine", length: int) -> None:
    prompt, continuations = Prompt(text(length, seed=1100 + length)), [text(n, seed=n) for n in (1, 1, 2, 40)]
    for most in (1 + 3 + 2 + 1, 2 + 2 + 3 + 41, 2 + 2 + 3 + 41):  # Once the longest is cached, for most of it too.
        costs: list[Cost] = []
        await engine.score(prompt, continuations, on_cost=costs.append)
        assert sum(cost.completion_tokens for cost in costs) == len(costs) <= most
        assert sum(cost.prompt_tokens - cost.cached_tokens for cost in costs) <= length + 2 * BLOCK * len(costs)


async def test_neighbours_are_unharmed(engine: "EmbeddedEngine") -> None:
    """Answers with log-probabilities, beside scores and alone, are the same."""
    sampling = Sampling(max_tokens=40, temperature=0.0, logprobs=3, ignore_eos=True)

    async def answer(number: int) -> tuple[tuple[int, ...], list[dict[int, float]]]:
        async with Session(engine) as session:
            call = await session.call(Prompt(text(20 + number, seed=2000 + number)), sampling).finish()
        logprobs = [{token: entry.logprob for token, entry in at.items()} for at in call.result.logprobs or ()]
        return call.result.token_ids, logprobs

    alone = [await answer(number) for number in range(3)]

    async def scores() -> None:
        for number in range(4):
            await engine.score(Prompt(text(90, seed=3000 + number)), [text(9, seed=i) for i in range(3)])

    scoring = asyncio.create_task(scores())
    beside = await asyncio.gather(*(answer(number) for number in range(3)))
    await scoring
    for (tokens, logprobs), (tokens_beside, logprobs_beside) in zip(alone, beside, strict=True):
        assert tokens == tokens_beside
        for at, at_beside in zip(logprobs, logprobs_beside, strict=True):
            assert at_beside == pytest.approx(at, rel=1e-4, abs=1e-4)


async def test_a_session_counts_what_a_score_takes(engine: "EmbeddedEngine") -> None:
    prompt = Prompt(text(70, seed=4000))
    async with Session(engine, max_tokens=6) as session:
        await session.score(prompt, [(1,), (2, 3)])
        usage = session.usage
        # The likeliest, each of the two first tokens that is not among them, and what comes behind.
        assert usage.completion_tokens == usage.branches <= 4
        assert (usage.calls, usage.prompt_tokens) == (1, 72)
        assert usage.engine_prompt_tokens == 70 * usage.branches + 2
        with pytest.raises(Exhausted, match="budget"):
            await session.score(prompt, [(4,), (5, 6)])


async def test_a_continuation_that_the_context_has_no_room_for(engine: "EmbeddedEngine") -> None:
    async with Session(engine) as session:
        (scored,) = await session.score(Prompt(text(CONTEXT - 11, seed=5000)), [text(10, seed=1)])
        assert len(scored.logprobs) == 10
        with pytest.raises(Exhausted, match="context"):
            await session.score(Prompt(text(CONTEXT - 10, seed=5000)), [text(10, seed=1)])


async def test_leaving_ends_the_work(client: "AsyncLLM", engine: "EmbeddedEngine") -> None:
    prompt = Prompt(text(480, seed=6000))
    scoring = asyncio.create_task(engine.score(prompt, [text(20, seed=i) for i in range(8)]))
    while not client.output_processor.request_states:
        await asyncio.sleep(0)
    scoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scoring
    assert not client.output_processor.request_states
