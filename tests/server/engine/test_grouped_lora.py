"""Adapters of a batch, against each row computed by itself."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from server.engine.cpu_lora import WRAPPER, patch, register
from server.engine.grouped_lora import Adapted, GroupedLoRA, laid_out

IN, OUT, RANK, SLOTS = 24, (16, 8, 8), 4, 5
Tensor = torch.Tensor


def weights(seed: int = 0) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """As vLLM stacks them: [slots, 1, rank, in] and [slots, 1, out, rank] for each part of the output."""
    draw = torch.Generator().manual_seed(seed)
    a, b = laid_out(*empty())
    for part in (*a, *b):
        part.copy_(torch.randn(part.shape, generator=draw))
    return a, b


def empty() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    a = tuple(torch.zeros(SLOTS, 1, RANK, IN) for _ in OUT)
    return a, tuple(torch.zeros(SLOTS, 1, out, RANK) for out in OUT)


def expected(y: Tensor, x: Tensor, slots: Sequence[int], a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    found = y.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            parts = [b_part[slot, 0] @ (a_part[slot, 0] @ x[row]) for a_part, b_part in zip(a, b, strict=True)]
            found[row] += torch.cat(parts)
    return found


def computed(y: Tensor, x: Tensor, slots: Sequence[int], a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    found = y.clone()
    for rows in Adapted.all_of(torch.tensor(slots)):
        rows.add(found, x, a, b, 1.0)
    return found


@pytest.mark.parametrize(
    "slots",
    [
        [-1],
        [0],
        [4],
        [-1, -1, 2, -1],
        [0, 1, 2, 3, 4],
        [3, -1, 1, 1, -1, 3],
        [4, -1, -1, 0],
        [-1] * 7 + [2, 2, 4] + [-1] * 9,
        [-1, 3, 3, 3, -1],
        [3, 3, 4, 4],
        [4, 4, 3, 3],
        [0, 4],
        [1, -1, *[3] * 30, 2, 0, -1, 1],
        [*[0] * 9, *[4] * 40, 2],
    ],
    ids=str,
)
def test_each_row_has_its_own_adapter(slots: list[int]) -> None:
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(len(slots), IN, generator=draw), torch.randn(len(slots), sum(OUT), generator=draw)
    a, b = weights()
    for _ in range(2):  # The second time by what is remembered of the first.
        found = computed(y, x, slots, a, b)
        torch.testing.assert_close(found, expected(y, x, slots, a, b))
    plain = [row for row, slot in enumerate(slots) if slot < 0]
    assert torch.equal(found[plain], y[plain])


@pytest.mark.parametrize("slots", [[0] * 250 + [1, 2, 3], [0] * 250 + [63], [0, 63], [1] * 99 + [5] * 99], ids=str)
def test_a_prompt_beside_answers_makes_them_no_dearer(slots: list[int]) -> None:
    """At most every second row of a product counts for nothing, however rows and slots are spread."""
    batch = Adapted.all_of(torch.tensor(slots))
    assert sum(len(rows._gathered) for rows in batch) <= 2 * len(slots)
    assert sorted(int(row) for rows in batch for row in rows._rows) == list(range(len(slots)))


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e38])
def test_what_an_adapter_overflows_to_stays_its_own(value: float) -> None:
    slots = [-1, 2, 1, -1, 3]
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(len(slots), IN, generator=draw), torch.randn(len(slots), sum(OUT), generator=draw)
    a, b = weights()
    clean = expected(y, x, slots, a, b)
    for part in a:
        part[2] = value
    found = computed(y, x, slots, a, b)
    assert not torch.isfinite(found[1]).all() or value == 1e38
    torch.testing.assert_close(found[[0, 2, 3, 4]], clean[[0, 2, 3, 4]])


def test_an_adapter_that_nobody_uses_touches_nobody() -> None:
    """Though it lies between two that are used, and is computed with them."""
    x, y = torch.ones(2, IN), torch.zeros(2, sum(OUT))
    a, b = weights()
    clean = expected(y, x, [1, 3], a, b)
    for part in (*a, *b):
        part[2] = torch.nan
    torch.testing.assert_close(computed(y, x, [1, 3], a, b), clean)


def test_vllms_wrapper_is_told_of_each_batch() -> None:
    """By adapter ids, in the slots where they are."""
    from vllm.lora.layers import LoRAMapping

    wrapper = GroupedLoRA(64, max_batches=8, device="cpu")
    x, y = torch.randn(5, IN), torch.randn(5, sum(OUT))
    a, b = weights()
    layout: list[int | None] = [7, None, 9, None, None]
    for ids, slots in (((7, 7, 0, 9, 0), [0, 0, -1, 2, -1]), ((0,) * 5, [-1] * 5), ((9,) * 5, [2] * 5)):
        wrapper.update_metadata(LoRAMapping(ids, ids, is_prefill=True), layout, SLOTS, 100)
        found = y.clone()
        wrapper.add_lora_linear(found, x, a, b, 1.0, OUT)
        torch.testing.assert_close(found, expected(y, x, slots, a, b))


@pytest.fixture
def vllm() -> tuple[Any, Any]:
    """A platform, and a module of managers."""

    class Manager:
        def __init__(self) -> None:
            self.modules: dict[str, Any] = {}

        def _create_lora_modules(self) -> None:
            a, b = empty()
            linear = SimpleNamespace(lora_a_stacked=a, lora_b_stacked=b, output_slices=OUT)
            self.modules = {"linear": linear, "other": SimpleNamespace(lora_b_stacked=torch.zeros(2))}

    class Platform:
        @classmethod
        def get_punica_wrapper(cls) -> str:
            return "another"

    def supported(model: Any) -> list[str]:
        return ["qkv_proj", "lm_head", "embed_tokens"]

    return Platform, SimpleNamespace(LoRAModelManager=Manager, get_supported_lora_modules=supported)


def test_weights_lie_as_they_are_read(vllm: tuple[Any, Any]) -> None:
    platform, managers = vllm
    for _ in range(2):
        patch(platform, managers)
    assert platform.get_punica_wrapper() == WRAPPER
    manager = managers.LoRAModelManager()
    manager._create_lora_modules()
    linear = manager.modules["linear"]
    for found, same in zip((linear.lora_a_stacked, linear.lora_b_stacked), empty(), strict=True):
        assert [part.shape for part in found] == [part.shape for part in same]
        assert len({part.untyped_storage().data_ptr() for part in found}) == 1
    assert manager.modules["other"].lora_b_stacked.shape == (2,)


def test_embedding_and_head_are_no_places_for_adapters(vllm: tuple[Any, Any]) -> None:
    platform, managers = vllm
    patch(platform, managers)
    inner = SimpleNamespace(embedding_modules={"embed_tokens": "input", "lm_head": "output"})
    model = SimpleNamespace(modules=lambda: [inner, SimpleNamespace()])
    assert managers.get_supported_lora_modules(model) == ["qkv_proj"]


@pytest.mark.parametrize("name", ["LoRAModelManager", "get_supported_lora_modules"])
def test_another_vllm_is_refused(vllm: tuple[Any, Any], name: str) -> None:
    platform, managers = vllm
    delattr(managers, name)
    with pytest.raises(RuntimeError, match="isn't built as expected"):
        patch(platform, managers)


def test_on_a_gpu_nothing_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.platforms.current_platform", SimpleNamespace(is_cpu=lambda: False))
    monkeypatch.setattr("server.engine.cpu_lora.patch", pytest.fail)
    register()
