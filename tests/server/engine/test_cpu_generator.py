import asyncio
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio
import torch

from server.engine.cpu_generator import PLUGIN_NAME, patch, register

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

REQUESTS = 64
PROMPT_TOKENS = 225


@pytest.fixture
def runner() -> Any:
    """A class that samples as vLLM's model runner does."""

    class Runner:
        def __init__(self, seeds: list[int | None]) -> None:
            seeded = {row: torch.Generator().manual_seed(s) for row, s in enumerate(seeds) if s is not None}
            self.input_batch = SimpleNamespace(generators=seeded)
            self.discard_request_mask = SimpleNamespace(np=np.zeros(8, dtype=bool))
            self.drawn: dict[int, int] = {}

        def step(self, discarded: list[int]) -> dict[int, int]:
            self._prepare_inputs(discarded)
            self.sample_tokens()
            return self.drawn

        def _prepare_inputs(self, discarded: list[int]) -> None:
            self.discard_request_mask.np[:] = False
            self.discard_request_mask.np[discarded] = True

        def sample_tokens(self) -> None:
            self._sample()
            self._bookkeeping_sync()

        def _sample(self) -> None:
            generators = self.input_batch.generators
            self.drawn = {row: int(torch.randint(0, 2**31, (1,), generator=g)) for row, g in generators.items()}

        def _bookkeeping_sync(self) -> None:
            for row in np.nonzero(self.discard_request_mask.np)[0]:
                generator = self.input_batch.generators.get(int(row))
                if generator is not None:
                    generator.set_offset(generator.get_offset() - 4)

    return Runner


def test_without_the_patch_a_discarded_draw_fails(runner: Any) -> None:
    with pytest.raises(RuntimeError, match="offset"):
        runner([7]).step(discarded=[0])


def test_a_discarded_token_costs_its_request_no_draw(runner: Any) -> None:
    expected = [runner([7]).step([])[0]]
    patch(runner)
    batch = runner([7, 8, None])
    assert batch.step(discarded=[0, 2]).keys() == {1}
    assert batch.step(discarded=[0, 1]) == {}
    assert [batch.step(discarded=[])[0]] == expected
    assert batch.input_batch.generators.keys() == {0, 1}


def test_generators_come_back_after_an_error(runner: Any) -> None:
    def fail(self: Any) -> None:
        raise ArithmeticError

    patch(runner)
    batch = runner([7])
    runner._sample = fail
    with pytest.raises(ArithmeticError):
        batch.step(discarded=[0])
    assert batch.input_batch.generators.keys() == {0}


def test_patching_twice_is_patching_once(runner: Any) -> None:
    patch(runner)
    once = runner.sample_tokens
    patch(runner)
    assert runner.sample_tokens is once


@pytest.mark.parametrize("method", ["sample_tokens", "_prepare_inputs", "_bookkeeping_sync"])
def test_another_vllm_is_refused(runner: Any, method: str) -> None:
    setattr(runner, method, lambda self: None)
    with pytest.raises(RuntimeError, match=f"{method} isn't as expected"):
        patch(runner)
    delattr(runner, method)
    with pytest.raises(RuntimeError, match=f"{method} isn't as expected"):
        patch(runner)


def test_on_a_gpu_nothing_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.platforms.current_platform", SimpleNamespace(is_cpu=lambda: False))
    monkeypatch.setattr("server.engine.cpu_generator.patch", pytest.fail)
    register()


def test_vllm_finds_the_plugin() -> None:
    (plugin,) = entry_points(group="vllm.general_plugins", name=PLUGIN_NAME)
    assert plugin.load() is register


@dataclass
class Answers:
    """Tokens by seed, from one engine."""

    alone: list[list[int]]
    together: list[list[int]]
    cached: list[list[int]]
    alive: bool


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def answers(shared_engine: "AsyncLLM") -> Answers:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("a GPU's generators know their offset")
    engine = shared_engine
    # First, so that no prefix is cached and every prompt takes four steps.
    alone = [await answer(engine, seed) for seed in range(4)]
    await engine.reset_prefix_cache()
    together = await asyncio.gather(*(answer(engine, seed) for seed in range(REQUESTS)))
    # Everything but the last few prompt tokens is cached now, so nothing is split.
    cached = [await answer(engine, seed) for seed in range(60, REQUESTS)]
    await engine.check_health()
    return Answers(alone, together, cached, alive=not engine.errored)


async def answer(engine: "AsyncLLM", seed: int) -> list[int]:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(max_tokens=16, ignore_eos=True, seed=seed, output_kind=RequestOutputKind.FINAL_ONLY)
    prompt = [(seed * 37 + i * i) % 256 for i in range(PROMPT_TOKENS)]
    outputs = [output async for output in engine.generate(prompt, params, f"seed-{seed}")]
    return list(outputs[-1].outputs[0].token_ids)


def test_seeded_requests_with_split_prompts_all_finish(answers: Answers) -> None:
    assert [len(tokens) for tokens in answers.together] == [16] * REQUESTS
    assert answers.alive


def test_a_seed_gives_the_same_tokens_however_the_prompt_was_split(answers: Answers) -> None:
    assert answers.together[:4] == answers.alone
    assert answers.together[60:] == answers.cached


def test_seeds_matter(answers: Answers) -> None:
    assert len({tuple(tokens) for tokens in answers.together}) == REQUESTS
