"""Adapters that come and go, in a real engine: each for its own rows alone."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import torch

from strategies.engine import Example, NotTrained, Prompt, Sampling, Training
from strategies.session import Session
from tests.engines import SHARED
from tests.strategies.srgen.test_engine import prompts

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

    from server.engine.adapters import Adapters

pytestmark = pytest.mark.asyncio(loop_scope="session")
SLOTS, RANK, TOKENS = SHARED["adapter_slots"], 8, 24
TRAINING = Training(RANK, 16, 1, 1e-3, "cosine", 0.03)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Writer:
    """In place of the training process: writes a random adapter, whose seed is the number of examples."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self.targets: list[str] = ALL
        self.rank = RANK
        self.closed = False

    async def start(self) -> None:
        """Nothing."""

    async def fit(
        self, examples: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], folder: Path
    ) -> AsyncGenerator[tuple[int, float], None]:
        """One epoch."""
        yield 1, 0.5
        save(self._model, folder, len(examples), self.targets, self.rank)

    async def close(self) -> None:
        """Remembers it."""
        self.closed = True


def save(model: Path, folder: Path, seed: int, targets: list[str], rank: int) -> None:
    """A random adapter, strong enough to change every answer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(r=rank, lora_alpha=16, target_modules=targets, init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(str(folder))


@pytest.fixture
def client(shared_engine: "AsyncLLM") -> "AsyncLLM":
    return shared_engine


@pytest.fixture
def writer(tiny_model: Path) -> Writer:
    return Writer(tiny_model)


@pytest_asyncio.fixture(loop_scope="session")
async def adapters(client: "AsyncLLM", writer: Writer, tmp_path: Path) -> "AsyncIterator[Adapters]":
    from server.engine.adapters import Adapters

    made = Adapters(client, writer, tmp_path, SLOTS, kept_bytes=10**6)  # type: ignore[arg-type]
    yield made
    await made.close()
    assert writer.closed
    assert not tmp_path.exists()


async def fitted(adapters: "Adapters", seed: int, keep: str | None = None) -> Any:
    fitting = adapters.fit([Example((1, 2), 1)] * seed, TRAINING, keep)
    async for _ in fitting:
        pass
    return fitting.adapter


async def answers(client: "AsyncLLM", requests: Sequence[tuple[list[int], Any]]) -> list[tuple[int, ...]]:
    """Greedy ones, all in one batch."""
    from server.engine.embedded import CallOptions, EmbeddedEngine

    unused: Any = None
    sampling = Sampling(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)

    async def one(prompt: list[int], adapter: Any) -> tuple[int, ...]:
        engine = EmbeddedEngine(client, unused, CallOptions("test", unused))
        async with Session(engine, adapter=adapter) as session:
            return (await session.call(Prompt(tuple(prompt)), sampling).finish()).result.token_ids

    return await asyncio.gather(*(one(*request) for request in requests))


def reference(model: Path, folder: str | None, prompt: list[int]) -> list[int]:
    """By Hugging Face, with the adapter in its weights."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    if folder is not None:
        loaded = PeftModel.from_pretrained(loaded, folder).merge_and_unload()
    made = loaded.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
    tokens: list[int] = made[0, len(prompt) :].tolist()
    return tokens


async def test_with_all_slots_full_each_row_has_its_own_weights(
    client: "AsyncLLM", adapters: "Adapters", tiny_model: Path
) -> None:
    texts = prompts((30, 70, 45, 20, 33, 12), seed=41)
    plain = await answers(client, [(text, None) for text in texts])
    loaded = [await fitted(adapters, seed) for seed in (1, 2, 3)]
    mixed = await answers(client, [(text, loaded[i // 2] if i % 2 else None) for i, text in enumerate(texts)])
    for i, text in enumerate(texts):
        expected = reference(tiny_model, loaded[i // 2].lora_path if i % 2 else None, text)
        assert list(mixed[i]) == expected
        assert (mixed[i] == plain[i]) == (i % 2 == 0)
    for adapter in loaded:
        await adapters.drop(adapter)
    assert not await client.list_loras()
    assert await answers(client, [(text, None) for text in texts]) == plain


async def test_metrics_do_not_grow_with_each_adapter(client: "AsyncLLM", adapters: "Adapters") -> None:
    """Each has a name of its own, of which vLLM's metrics keep every set that ran together."""
    from prometheus_client import REGISTRY

    def told() -> list[str]:
        info = [one for one in REGISTRY.collect() if one.name == "vllm:lora_requests_info"]
        return [sample.labels["running_lora_adapters"] for one in info for sample in one.samples]

    seen = set()
    for seed in range(1, 5):
        adapter = await fitted(adapters, seed)
        await answers(client, [(prompts((30,), seed=7)[0], adapter)])
        seen |= {name for name in told() if name}
        await adapters.drop(adapter)
        assert len(told()) <= 2
    assert len(seen) == 4


async def test_more_than_there_are_slots_wait_in_turn(client: "AsyncLLM", adapters: "Adapters") -> None:
    loaded = [await fitted(adapters, seed) for seed in range(1, SLOTS + 1)]
    waiting = [asyncio.ensure_future(fitted(adapters, seed)) for seed in (8, 9)]
    await asyncio.sleep(3)
    assert not any(task.done() for task in waiting)
    await adapters.drop(loaded.pop())
    late = [await asyncio.wait_for(task, 10) for task in waiting[:1]]
    assert not waiting[1].done()
    waiting[1].cancel()  # It gives up.
    for adapter in (*loaded, *late):
        await adapters.drop(adapter)
    again = [await fitted(adapters, seed) for seed in range(1, SLOTS + 1)]
    for adapter in again:
        await adapters.drop(adapter)


@pytest.mark.parametrize(("rank", "targets"), [(2 * RANK, ALL), (RANK, ["lm_head"]), (RANK, ["embed_tokens"])])
async def test_an_adapter_that_the_engine_does_not_take(
    client: "AsyncLLM", adapters: "Adapters", writer: Writer, rank: int, targets: list[str]
) -> None:
    writer.rank, writer.targets = rank, targets
    for _ in range(SLOTS + 1):  # It leaves no slot taken.
        with pytest.raises(NotTrained, match="does not take"):
            await fitted(adapters, 1)
    assert not await client.list_loras()
    writer.rank, writer.targets = RANK, ALL
    await adapters.drop(await fitted(adapters, 1))


async def test_an_adapter_of_another_model(
    client: "AsyncLLM", adapters: "Adapters", writer: Writer, tiny_model: Path, tmp_path: Path
) -> None:
    """Of a wrong shape: refused, and the engine answers on."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny_model)
    config.hidden_size, config.intermediate_size = 2 * config.hidden_size, 3 * config.intermediate_size
    config.head_dim = config.hidden_size // config.num_attention_heads
    wide: Any = AutoModelForCausalLM
    wide.from_config(config).save_pretrained(tmp_path / "wide")
    text = prompts((30,), seed=5)[0]
    (before,) = await answers(client, [(text, None)])
    writer._model = tmp_path / "wide"
    for _ in range(SLOTS + 1):
        with pytest.raises(NotTrained, match="does not take"):
            await fitted(adapters, 1)
    assert await answers(client, [(text, None)]) == [before]


async def test_kept_ones_are_found_while_there_is_room(client: "AsyncLLM", adapters: "Adapters") -> None:
    first = await fitted(adapters, 1, keep="first")
    await adapters.drop(first)
    again = await adapters.recall("first")
    assert Path(again.lora_path) == Path(first.lora_path)
    assert again.lora_int_id != first.lora_int_id
    text = prompts((30,), seed=6)[0]
    (by_first,) = await answers(client, [(text, again)])
    size = sum(file.stat().st_size for file in Path(first.lora_path).iterdir())
    adapters._kept_bytes = int(1.5 * size)
    second = await fitted(adapters, 2, keep="second")
    # There is no room for both; what is in use is not deleted.
    assert await adapters.recall("first") is None
    assert await answers(client, [(text, again)]) == [by_first]
    await adapters.drop(again)
    assert not Path(first.lora_path).exists()
    await adapters.drop(second)
    assert Path(second.lora_path).exists()
    assert json.loads((Path(second.lora_path) / "adapter_config.json").read_text())["r"] == RANK


async def test_one_that_is_kept_and_lost_is_none(adapters: "Adapters") -> None:
    """It can be learnt anew."""
    await adapters.drop(await fitted(adapters, 1, keep="lost"))
    shutil.rmtree(adapters._kept["lost"].folder)
    assert await adapters.recall("lost") is None
    again = await fitted(adapters, 1, keep="lost")
    await adapters.drop(again)
    found = await adapters.recall("lost")
    assert found is not None
    await adapters.drop(found)


async def test_what_is_not_kept_is_deleted(adapters: "Adapters") -> None:
    adapter = await fitted(adapters, 1)
    assert Path(adapter.lora_path).exists()
    await adapters.drop(adapter)
    assert not Path(adapter.lora_path).exists()
    assert await adapters.recall("nothing") is None
