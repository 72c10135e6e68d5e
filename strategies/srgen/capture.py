"""What SRGen needs of vLLM's model runner beside logits: the hidden state of every token of a text.

They are kept beside the KV cache, a row for each of its slots. So they live and die with the cached keys and values:
whatever vLLM takes from its prefix cache has its hidden states here, a preempted request writes them anew as it is
computed anew, samples of one prompt share them, and nothing is to be freed.
"""

import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override
from vllm import _custom_ops as ops
from vllm.distributed import get_tp_group, tensor_model_parallel_all_gather
from vllm.lora.layers import LogitsProcessorWithLoRA
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.v1.kv_cache_interface import FullAttentionSpec

from strategies.srgen.head import Head, OneShard, Shards
from strategies.srgen.kept import KEPT_BYTES, Kept

logger = logging.getLogger("vllm.redraft.srgen")
ModelRunner = Any
"""vLLM's GPUModelRunner, or a subclass."""

Slots = npt.NDArray[np.int64]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Of heads that can be multiplied as they are."""


class Watcher(Protocol):
    """Who is told of every step."""

    def begin(self, capture: "Capture") -> bool:
        """A batch has been run; returns whether its logits are of interest."""
        ...

    def see(self, capture: "Capture", head: Head, hidden: Tensor, logits: Tensor) -> None:
        """Logits [R, V] of the batch, and the hidden states [R, D] that they were made from, before any mask."""
        ...

    def end(self, capture: "Capture", names: Iterable[str]) -> None:
        """Requests have ended."""
        ...

    def refuse(self, reason: str) -> None:
        """Why nothing can be seen."""
        ...


class Unsupported(Exception):
    """This model or this configuration has no hidden states to offer."""


class Capture:
    """The hidden states and tokens of the KV cache.

    Args:
        runner: the model runner, its KV cache ready.
        watcher: told of every step.

    Attributes:
        kept: of the texts that were corrected last.

    Raises:
        Unsupported: no layer keeps all positions, or others than this process fill the cache.
    """

    def __init__(self, runner: ModelRunner, watcher: Watcher) -> None:
        config = runner.vllm_config
        parallel = config.parallel_config
        if config.kv_transfer_config is not None:
            raise Unsupported("keys and values come from elsewhere, without their hidden states")
        if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
            raise Unsupported("under context parallelism no process has all positions")
        specs = [group.kv_cache_spec for group in runner.kv_cache_config.kv_cache_groups]
        full = [i for i, spec in enumerate(specs) if isinstance(spec, FullAttentionSpec)]
        if not full:
            raise Unsupported("no layer of this model attends to all positions")
        self._group = full[0]
        slots = runner.kv_cache_config.num_blocks * specs[self._group].block_size
        model = runner.get_model()
        # Some models project their backbone's output before the head.
        head_weight = getattr(getattr(model, "lm_head", None), "weight", None)
        size = config.model_config.get_hidden_size() if head_weight is None else head_weight.shape[-1]
        dtype = config.model_config.dtype
        self._hidden = torch.empty(slots, size, dtype=dtype, device=runner.device)
        self._tokens = torch.empty(slots, dtype=torch.int32, device=runner.device)
        self.kept = Kept(_room(runner.device))
        logger.info(
            "srgen keeps %d bytes beside each of %d slots of the KV cache, and up to %d MiB for corrections",
            self.bytes_per_token,
            slots,
            self.kept.size // 2**20,
        )
        self.runner = runner
        self._watcher = watcher
        self._expecting = False
        self._made: _Made | None = None
        self._refused = False
        self._head: Head | None = None
        for module in model.modules():
            if isinstance(module, LogitsProcessor | LogitsProcessorWithLoRA):
                module.register_forward_hook(self._after_head, with_kwargs=True)
        model.compute_logits = self._watched(model.compute_logits)

    @property
    def bytes_per_token(self) -> int:
        """Of memory, for each slot of the KV cache."""
        return self._hidden.shape[1] * self._hidden.itemsize + self._tokens.itemsize

    def write(self, hidden: Tensor) -> None:
        """Keeps the backbone's output of one step, [tokens or more, D]."""
        if self._refused:
            return
        if hidden.shape[-1] != self._hidden.shape[-1]:
            self._refuse("the backbone's output is not as wide as the head's input")
            return
        runner = self.runner
        count = int(runner.query_start_loc.np[runner.input_batch.num_reqs])
        slots = self._table().slot_mapping.gpu[:count]
        self._hidden[slots] = hidden[:count]
        self._tokens[slots] = runner.input_ids.gpu[:count]
        self._expecting = self._watcher.begin(self)

    def end(self, names: Iterable[str]) -> None:
        """Requests have ended."""
        self._watcher.end(self, names)

    def past(self, row: int, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Hidden states [T, D] at positions begin .. end - 1 of the text in a row of the batch, and next tokens [T]."""
        slots = torch.from_numpy(self._slots(row, begin, end + 1)).to(self._hidden.device)
        return self._hidden[slots[:-1]], self._tokens[slots[1:]].long()

    def hidden(self, row: int, begin: int, end: int) -> Tensor:
        """Hidden states at positions begin .. end - 1 of the text in a row of the batch, [end - begin, D]."""
        return self._hidden[torch.from_numpy(self._slots(row, begin, end)).to(self._hidden.device)]

    def _slots(self, row: int, begin: int, end: int) -> Slots:
        table = self._table()
        positions = np.arange(begin, end)
        blocks = table.block_table.np[row, positions // table.block_size].astype(np.int64)
        found: Slots = blocks * table.block_size + positions % table.block_size
        return found

    def _table(self) -> Any:
        return self.runner.input_batch.block_table[self._group]

    def _after_head(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], logits: Tensor | None) -> None:
        layer, hidden, *rest = args
        bias = rest[0] if rest else kwargs.get("embedding_bias")
        self._made = None if logits is None else _Made(module, layer, bias, hidden, logits)

    def _watched(self, compute_logits: Callable[..., Any]) -> Callable[..., Any]:
        """The model's `compute_logits`, after which the watcher is told."""

        @functools.wraps(compute_logits)
        def watched(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._made = None
            logits = compute_logits(hidden, *args, **kwargs)
            made, self._made = self._made, None
            # Prompt log-probabilities and warm-ups make logits too; those of a step come first after its forward pass.
            if self._expecting and logits is not None:
                self._expecting = False
                self._tell(hidden, logits, made)
            return logits

        return watched

    def _tell(self, hidden: Tensor, logits: Tensor, made: "_Made | None") -> None:
        if made is None:
            self._refuse("the model makes its logits by itself")
        elif not (_same(made.hidden, hidden) and _same(made.logits, logits)):
            self._refuse("the model does more than to apply its head to the backbone's output")
        else:
            try:
                self._head = self._head or _head(made.module, made.layer, made.bias)
            except Unsupported as error:
                self._refuse(str(error))
            else:
                self._watcher.see(self, self._head, hidden, logits)

    def _refuse(self, reason: str) -> None:
        self._refused = True
        self._expecting = False
        self._watcher.refuse(reason)


@dataclass(frozen=True, slots=True)
class _Made:
    """One application of the head."""

    module: Any
    layer: Any
    bias: Tensor | None
    hidden: Tensor
    logits: Tensor


def _same(first: Tensor, second: Tensor) -> bool:
    return first is second or (first.shape == second.shape and torch.equal(first, second))


def adapts_head(runner: ModelRunner, row: int) -> bool:
    """Whether the adapter of a row of the batch changes the head itself."""
    adapter = int(runner.input_batch.request_lora_mapping[row])
    if adapter == 0:
        return False
    loaded = runner.lora_manager._adapter_manager.get_adapter(adapter)
    return loaded is None or any("lm_head" in name or "embed_tokens" in name for name in loaded.loras)


def install(runner_class: type, watcher_of: Callable[[ModelRunner], Watcher | None]) -> None:
    """Has the model runners of a class keep hidden states where `watcher_of` finds a watcher; twice is as once."""
    if getattr(runner_class, "keeps_hidden_states", False):
        return
    initialize: Any = runner_class.initialize_kv_cache  # type: ignore[attr-defined]
    forward: Any = runner_class._model_forward  # type: ignore[attr-defined]
    update: Any = runner_class._update_states  # type: ignore[attr-defined]

    @functools.wraps(initialize)
    def initialize_kv_cache(runner: ModelRunner, *args: Any, **kwargs: Any) -> Any:
        result = initialize(runner, *args, **kwargs)
        watcher = watcher_of(runner)
        # At start, where a lack of memory is told, and not with the first request.
        runner.redraft_capture = None if watcher is None else _capture(runner, watcher)
        return result

    @functools.wraps(forward)
    def _model_forward(runner: ModelRunner, *args: Any, **kwargs: Any) -> Any:
        output = forward(runner, *args, **kwargs)
        if (capture := runner.redraft_capture) is not None and isinstance(output, Tensor):
            capture.write(output)
        return output

    @functools.wraps(update)
    def _update_states(runner: ModelRunner, scheduler_output: Any) -> Any:
        # An idle engine is told of the last requests' end too, in a step without a forward pass.
        if (capture := runner.redraft_capture) is not None:
            capture.end(scheduler_output.finished_req_ids)
        return update(runner, scheduler_output)

    runner_class.initialize_kv_cache = initialize_kv_cache  # type: ignore[attr-defined]
    runner_class._update_states = _update_states  # type: ignore[attr-defined]
    runner_class._model_forward = _model_forward  # type: ignore[attr-defined]
    runner_class.keeps_hidden_states = True  # type: ignore[attr-defined]


def _capture(runner: ModelRunner, watcher: Watcher) -> Capture | None:
    try:
        return Capture(runner, watcher)
    except Unsupported as error:
        watcher.refuse(str(error))
        return None


def _room(device: torch.device) -> int:
    """Bytes for what corrections keep. On a GPU vLLM has taken what it may by now; the rest is not for this alone."""
    if device.type != "cuda":
        return KEPT_BYTES
    free = torch.tensor(torch.cuda.mem_get_info(device)[0])
    # Shards must have room for the same.
    torch.distributed.all_reduce(free, torch.distributed.ReduceOp.MIN, get_tp_group().cpu_group)
    return min(KEPT_BYTES, int(free) // 4)


def _head(module: Any, layer: Any, bias: Tensor | None) -> Head:
    """The head as the model applies it. Raises Unsupported for weights that cannot be multiplied as they are."""
    weight = getattr(layer, "weight", None)
    if weight is None or weight.dtype not in DTYPES or weight.dim() != 2:
        raise Unsupported("the head's weights are quantised")
    if layer.tp_size == 1:
        size = module.org_vocab_size
        shards: Shards = OneShard()
        first = 0
    else:
        first = layer.shard_indices.org_vocab_start_index
        size = layer.shard_indices.org_vocab_end_index - first
        shards = TensorParallel(len(weight), module.org_vocab_size)
    bias = None if bias is None else bias[:size]
    return LayerHead(weight[:size], bias, module.soft_cap, module.scale, first, shards, products=_Products(layer, size))


@dataclass(frozen=True, slots=True)
class LayerHead(Head):
    """A head that multiplies as vLLM does: on a CPU from weights in the order that its instructions read fastest.

    Args:
        products: of the layer.
    """

    products: "_Products" = field(kw_only=True)

    @override
    def times(self, vectors: Tensor) -> Tensor:
        return self.products.times(vectors)

    @override
    def transposed_times(self, vectors: Tensor) -> Tensor:
        return self.products.transposed_times(vectors)


class _Products:
    def __init__(self, layer: Any, size: int) -> None:
        self._layer = getattr(layer, "base_layer", layer)
        self._size = size
        self._transposed: Any = None

    def times(self, vectors: Tensor) -> Tensor:
        product: Tensor = self._layer.quant_method.apply(self._layer, vectors)
        return product[:, : self._size]

    def transposed_times(self, vectors: Tensor) -> Tensor:
        weight: Tensor = self._layer.weight[: self._size]
        if not (weight.device.type == "cpu" and ops._supports_onednn):
            return vectors @ weight
        if self._transposed is None:
            # A second copy in another order; vLLM keeps only its own.
            self._transposed = ops.create_onednn_mm(weight, 32)
        product: Tensor = ops.onednn_mm(self._transposed, vectors, None)
        return product


class TensorParallel:
    """The vocabulary shards of vLLM's tensor-parallel group.

    Args:
        rows: of each shard, padding included.
        vocabulary: tokens, without padding.
    """

    def __init__(self, rows: int, vocabulary: int) -> None:
        self._rows = rows
        self._vocabulary = vocabulary

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all shards."""
        total: Tensor = get_tp_group().all_reduce(values.clone())
        return total

    def max(self, values: Tensor) -> Tensor:
        """The maximum over all shards."""
        values = values.clone()
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, get_tp_group().device_group)
        return values

    def largest(self, rows: int) -> int:
        """With the padding, they are all alike."""
        return self._rows

    def gather(self, values: Tensor) -> Tensor:
        """Parts put together in the order of the vocabulary, [..., V]."""
        padded = torch.nn.functional.pad(values, (0, self._rows - values.shape[-1]))
        whole: Tensor = tensor_model_parallel_all_gather(padded.contiguous())
        return whole[..., : self._vocabulary]
