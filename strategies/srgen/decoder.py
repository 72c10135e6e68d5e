"""SRGen, self-reflective generation (arXiv 2510.02919).

At uncertain tokens, a vector that is fitted on the text so far is added to the last hidden state.

The method is `objective.py` (the correction) and `trigger.py` (when); `processor.py` runs it inside vLLM's workers.

Deviations from the published code: one batch instead of one request, no second prefill at a trigger, and prompt and
generated text stay token ids throughout. A continued call goes on with its text's entropies and its count. Texts are
corrected up to a length that the server sets, for their whole batch waits. A bfloat16 head's distributions are rounded
to bfloat16, where logits already are.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from typing_extensions import override

from strategies.base import Decoder, Note
from strategies.engine import Generation, Sampling
from strategies.srgen.request import SRGenParams, SRGenRequest, SRGenText


class SRGen(Decoder):
    """Switches the processor on, and tells what it did."""

    name = "srgen"
    summary = "Corrects the hidden state at uncertain tokens, inside the engine."
    paper = "arXiv:2510.02919"
    needs = frozenset({"tokens", "hidden_states"})
    Parameters = SRGenParams
    params: SRGenParams

    @override
    def apply(self, sampling: Sampling, continues: Generation | None = None) -> Sampling:
        text = SRGenText()
        if continues is not None:
            made = sum(report["decoder"] == self.name for report in continues.reports)
            text = SRGenText(prompt_tokens=continues.prompt_tokens, activations=made)
        return replace(sampling, extra={**sampling.extra, **SRGenRequest(self.params, text).arguments()})

    @override
    def note(self, report: Mapping[str, Any]) -> Note:
        note = super().note(report)
        if note.kind != "activation":
            return replace(note, text=report["reason"])
        text = (
            f"token {report['position']}: entropy {report['entropy']:.2f} above {report['threshold']:.2f}, "
            f"then {report['entropy_after']:.2f}; {report['text_before']!r} -> {report['text_after']!r}"
        )
        return replace(note, text=text)
