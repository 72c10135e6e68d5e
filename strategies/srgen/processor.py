"""SRGen as a logits processor in vLLM's workers (arXiv 2510.02919), under continuous batching.

At each step the entropies of all watched rows are compared with their thresholds; the rows that fire are solved
together, and their logits corrected for this one token. The KV cache is not touched.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override
from vllm.distributed import get_tp_group
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from strategies.engine import Report
from strategies.reports import ReportWriter
from strategies.srgen.capture import Capture, ModelRunner, adapts_head, install
from strategies.srgen.head import Head
from strategies.srgen.kept import Kept
from strategies.srgen.objective import Correction, Fit, Past, correct
from strategies.srgen.request import SRGenParams, SRGenRequest, most_positions
from strategies.srgen.trigger import Trigger, entropies_of

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

logger = logging.getLogger("vllm.redraft.srgen")

Arguments: TypeAlias = Mapping[str, Any] | None
GREEDY = 1e-5
"""Temperatures below are greedy in vLLM; entropies are then those of temperature 1."""


@dataclass(slots=True)
class Text:
    """One request with SRGen."""

    name: str
    """The engine's."""
    request: SRGenParams
    arguments: Arguments
    """Of the call, those of other decoders too."""
    place: int
    """In the trigger."""
    boundary: int
    """Tokens of the text before its first generated one."""
    temperature: float
    activations: int
    entered: bool = False
    """Whether the trigger knows it: not before its prompt is computed."""
    summed: int = 0
    """Positions whose first gradients `gradients` holds."""
    gradients: Tensor | None = None
    """Their sum, [D]."""

    def scope_begin(self) -> int:
        """The first position that the cross-entropy is taken over."""
        return self.boundary - 1 if self.request.scope == "generated" else 0


class Rows:
    """The rows of the batch that have SRGen.

    Args:
        texts: by row.
        device: where logits are.
        positions: that a cross-entropy may be taken over.
    """

    def __init__(self, texts: dict[int, Text], device: torch.device, positions: int) -> None:
        self.texts = list(texts.values())
        self.numbers = np.fromiter(texts, np.int64, len(texts))
        self.boundaries = np.array([text.boundary for text in self.texts])
        self.limits = np.array([text.scope_begin() + text.request.most(positions) for text in self.texts])
        self.left = np.array([text.request.max_activations - text.activations for text in self.texts])
        self.pending = np.array([not text.entered for text in self.texts])
        self.places = torch.tensor([text.place for text in self.texts], device=device)
        self.temperatures = torch.tensor([text.temperature for text in self.texts], device=device)
        self.on_device = torch.from_numpy(self.numbers).to(device)


@dataclass(frozen=True, slots=True)
class Activation:
    """A row that fired in this step."""

    row: int
    text: Text
    length: int
    """Tokens of the text so far."""
    entropy: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be corrected in this step.

    Args:
        capture: has the texts.
        head: the model's head.
        projected: [A, V], projections at the last positions.
        activations: A rows.
    """

    capture: Capture
    head: Head
    projected: Tensor
    activations: list[Activation]


class SRGenProcessor(LogitsProcessor):
    """vLLM's interface: made once a worker, told of each change of the batch, given the logits of each step."""

    @classmethod
    def validate_params(cls, sampling_params: "SamplingParams") -> None:
        """Raises ValueError for arguments that are none; vLLM makes it a 400."""
        SRGenRequest.read(sampling_params.extra_args)

    def __init__(self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        self._trigger = Trigger(vllm_config.scheduler_config.max_num_seqs, device)
        self._texts: dict[str, Text] = {}
        self._positions = most_positions(device.type)
        self._rows = Rows({}, device, self._positions)
        self._changed = False
        self._due: Due | None = None
        self._unsupported: str | None = None
        self._reports = ReportWriter()
        install(GPUModelRunner, _processor_of)

    @override
    def is_argmax_invariant(self) -> bool:
        """A correction may change the likeliest token."""
        return False

    @override
    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Notes that rows have changed. Who they are is read off the model runner, which knows preempted requests."""
        if batch_update is None:
            return
        self._changed = True
        if self._unsupported is not None:
            for _, params, _, _ in batch_update.added:
                if SRGenRequest.read(params.extra_args) is not None:
                    self._tell(params.extra_args, _unsupported(self._unsupported))

    @override
    def apply(self, logits: Tensor) -> Tensor:
        """Corrects the logits [R, V] of the rows that fired, in place."""
        if self._due is None:
            return logits
        due, self._due = self._due, None
        activations = due.activations
        rows = torch.tensor([activation.row for activation in activations], device=logits.device)
        before = logits[rows].argmax(-1)
        pasts = [_past(due.capture, activation) for activation in activations]
        correction = _correct(due.head, due.projected, activations, pasts, due.capture.kept)
        logits[rows] += correction.logits.to(logits.dtype)
        self._report(activations, correction, before, logits[rows].argmax(-1))
        return logits

    def begin(self, capture: Capture) -> bool:
        """A batch has been run; returns whether its logits are of interest."""
        self._due = None
        if self._changed:
            self._changed = False
            self._rows = self._find_rows(capture.runner)
        return bool(self._rows.texts)

    def see(self, capture: Capture, head: Head, hidden: Tensor, logits: Tensor) -> None:
        """Watches the entropies of one step. Logits [R, V] are those of the model, before any mask."""
        rows = self._rows
        lengths = capture.runner.optimistic_seq_lens_cpu.numpy()[rows.numbers]
        # A row whose prompt is not through has logits too, of which no token comes.
        sampled = ~capture.runner.discard_request_mask.np[rows.numbers]
        for i in np.flatnonzero(sampled & rows.pending):
            self._enter(rows.texts[i], int(rows.numbers[i]), int(lengths[i]), capture, head)
            rows.pending[i] = False
        for i in np.flatnonzero(sampled & (lengths > rows.limits) & (rows.left > 0)):
            rows.left[i], rows.texts[i].activations = 0, rows.texts[i].request.max_activations
            most = rows.texts[i].request.most(self._positions)
            reason = f"from here on there are more than {most} positions, the server's bound"
            self._tell(rows.texts[i].arguments, _unsupported(reason))
        watched = np.flatnonzero(sampled & (lengths > rows.boundaries) & (rows.left > 0))
        if not len(watched):
            return
        if head.is_product:
            own = head.own(logits)
            for i in watched:
                text = rows.texts[i]
                capture.kept.append(head, text.name, lengths[i] - 1 - text.scope_begin(), own[rows.numbers[i]])
        chosen = torch.from_numpy(watched).to(self._device)
        numbers = rows.numbers[watched]
        if numbers[-1] - numbers[0] + 1 == len(numbers):
            seen_logits = logits[numbers[0] : numbers[-1] + 1]  # No copy.
        else:
            seen_logits = logits[rows.on_device[chosen]]
        entropies = entropies_of(seen_logits, rows.temperatures[chosen])
        seen = self._trigger.watch(rows.places[chosen], entropies)
        fired = seen.fires.nonzero()[:, 0]
        if not len(fired):
            return
        values = torch.stack([entropies[fired], seen.thresholds[fired]], 1).tolist()
        activations = []
        for i, (entropy, threshold) in zip(watched[fired.cpu().numpy()], values, strict=True):
            rows.left[i] -= 1
            rows.texts[i].activations += 1
            activations.append(Activation(int(rows.numbers[i]), rows.texts[i], int(lengths[i]), entropy, threshold))
        last = rows.on_device[chosen[fired]]
        # A copy, for masks are written into these logits.
        self._due = Due(capture, head, head.unfinish(logits[last], hidden[last]), activations)

    def end(self, capture: Capture, names: Iterable[str]) -> None:
        """Requests have ended, whichever way."""
        for name in names:
            if (text := self._texts.pop(name, None)) is not None:
                self._trigger.leave(text.place)
                capture.kept.drop(name)
                if get_tp_group().rank_in_group == 0:
                    logger.info("srgen: request %s has ended with %d activations", name, text.activations)

    def refuse(self, reason: str) -> None:
        """Nothing can be corrected in this engine: each request is told so."""
        logger.warning("srgen is off: %s", reason)
        self._unsupported = reason
        for text in self._texts.values():
            self._tell(text.arguments, _unsupported(reason))
        self._texts, self._rows = {}, Rows({}, self._device, self._positions)

    def _find_rows(self, runner: ModelRunner) -> Rows:
        batch, found = runner.input_batch, {}
        for row, name in enumerate(batch.req_ids[: batch.num_reqs]):
            if (known := self._texts.get(name) or self._begin(runner, row, name)) is not None:
                found[row] = known
        return Rows(found, self._device, self._positions)

    def _begin(self, runner: ModelRunner, row: int, name: str) -> Text | None:
        state = runner.requests[name]
        arguments = state.sampling_params.extra_args
        request = SRGenRequest.read(arguments)
        if request is None:
            return None
        if adapts_head(runner, row):
            self._tell(arguments, _unsupported("the request's adapter changes the head"))
            return None
        boundary, temperature = state.num_prompt_tokens, state.sampling_params.temperature
        self._texts[name] = text = Text(
            name,
            request.params,
            arguments,
            self._trigger.take(),
            min(request.text.prompt_tokens or boundary, boundary),
            temperature if temperature >= GREEDY else 1.0,
            request.text.activations,
        )
        return text

    def _enter(self, text: Text, row: int, length: int, capture: Capture, head: Head) -> None:
        """Gives the trigger what an earlier call of the same text has seen: its hidden states are here."""
        # Those of the second and later generated tokens; the last position is that of this step.
        begin = max(text.boundary, length - 1 - text.request.window)
        entropies = torch.empty(0, device=self._device)
        if length - 1 > begin:
            logits = head.finish(head.project(capture.hidden(row, begin, length - 1)))
            entropies = head.entropy(logits / text.temperature).float()
        self._trigger.enter(text.place, text.request, entropies)
        text.entered = True

    def _report(self, activations: list[Activation], correction: Correction, before: Tensor, after: Tensor) -> None:
        norms = correction.delta.norm(dim=-1)
        values = zip(
            activations,
            correction.entropy.tolist(),
            norms.tolist(),
            before.tolist(),
            after.tolist(),
            strict=True,
        )
        for activation, entropy_after, norm, token_before, token_after in values:
            self._tell(
                activation.text.arguments,
                {
                    "kind": "activation",
                    "position": activation.length - activation.text.boundary,
                    "entropy": activation.entropy,
                    "threshold": activation.threshold,
                    "entropy_after": entropy_after,
                    "token_before": token_before,
                    "token_after": token_after,
                    "delta_norm": norm,
                },
            )

    def _tell(self, arguments: Arguments, report: Report) -> None:
        if report["kind"] == "unsupported":
            logger.warning("srgen: a request is not corrected: %s", report["reason"])
        if get_tp_group().rank_in_group == 0:
            self._reports.write(arguments, {"decoder": "srgen", **report})


def _unsupported(reason: str) -> Report:
    return {"kind": "unsupported", "reason": reason}


def _past(capture: Capture, activation: Activation) -> Past:
    text = activation.text
    hidden, labels = capture.past(activation.row, text.scope_begin(), activation.length - 1)
    return Past(hidden, labels, text.gradients, text.summed, text.name)


def _correct(head: Head, projected: Tensor, activations: list[Activation], pasts: list[Past], kept: Kept) -> Correction:
    requests = [activation.text.request for activation in activations]
    settings = [
        (request.entropy_weight, activation.text.temperature, request.learning_rate)
        for request, activation in zip(requests, activations, strict=True)
    ]
    weights, temperatures, rates = torch.tensor(settings, dtype=head.dtype, device=projected.device).unbind(1)
    steps = torch.tensor([request.steps for request in requests], device=projected.device)
    fit = Fit(weights, temperatures, rates, steps)
    correction = correct(head, projected, pasts, fit, kept)
    for activation, past, sums, row in zip(activations, pasts, correction.sums, projected, strict=True):
        activation.text.gradients, activation.text.summed = sums, len(past.hidden)
        kept.append(head, activation.text.name, len(past.hidden), row)
    return correction


def _processor_of(runner: ModelRunner) -> SRGenProcessor | None:
    found = (p for p in runner.input_batch.logitsprocs.all if isinstance(p, SRGenProcessor))
    return next(found, None)
