"""What is compared: ways to ask the model, each through one gateway."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.servers import MODEL

SAMPLES = 5
TEMPERATURE = 0.7
VLLM, OPTILLM, ITS_HUB, REMOTE, EMBEDDED = "vllm serve", "OptiLLM", "its_hub", "redraft before vllm serve", "redraft"
GATEWAYS = (VLLM, OPTILLM, ITS_HUB, REMOTE, EMBEDDED)

Kind = Literal["plain", "vote", "technique"]
"""One answer as it comes, self-consistency of SAMPLES, or something else."""


@dataclass(frozen=True)
class Arm:
    """One way to ask.

    Attributes:
        gateway: that is asked.
        technique: as the gateway calls it.
        kind: what it is comparable with.
        prefix: of the model's name.
        more: keys of the request beside OpenAI's.
    """

    gateway: str
    technique: str
    kind: Kind
    prefix: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As reports call it."""
        return f"{self.gateway}: {self.technique}"

    @property
    def engine(self) -> str:
        """The gateway whose engine answers."""
        return EMBEDDED if self.gateway == EMBEDDED else VLLM

    def body(self, text: str, tokens: int, **more: Any) -> dict[str, Any]:
        """A request for one answer of at most so many tokens."""
        return {
            "model": f"{self.prefix}{MODEL}",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "temperature": TEMPERATURE,
            "stream": False,
            **self.more,
            **more,
        }


def _voting(gateway: str, early_stop: bool = False) -> Arm:
    # Others have no early stop: without it all draw as many samples to their ends.
    params = {"samples": SAMPLES, "early_stop": early_stop}
    more = {"strategy": {"name": "self_consistency", "params": params}}
    if early_stop:
        return Arm(gateway, "self_consistency, early stop", "technique", more=more)
    return Arm(gateway, "self_consistency", "vote", more=more)


DIRECT = Arm(VLLM, "one call", "plain")
SAMPLED = Arm(VLLM, f"n of {SAMPLES}", "vote", more={"n": SAMPLES})
ARMS = (
    DIRECT,
    SAMPLED,
    Arm(OPTILLM, "none", "plain", "none-"),
    Arm(OPTILLM, "self_consistency", "vote", "self_consistency-"),
    Arm(OPTILLM, "majority_voting", "vote", "majority_voting-", {"k": SAMPLES}),
    Arm(OPTILLM, "bon", "technique", "bon-"),
    Arm(OPTILLM, "moa", "technique", "moa-"),
    Arm(OPTILLM, "re2", "technique", "re2-"),
    Arm(OPTILLM, "cot_reflection", "technique", "cot_reflection-"),
    Arm(ITS_HUB, "budget 1", "plain", more={"budget": 1}),
    Arm(ITS_HUB, "self-consistency", "vote", more={"budget": SAMPLES}),
    Arm(REMOTE, "plain", "plain"),
    _voting(REMOTE),
    Arm(EMBEDDED, "plain", "plain"),
    _voting(EMBEDDED),
    _voting(EMBEDDED, early_stop=True),
)
"""OptiLLM's self_consistency draws 5 samples whatever one asks for, which is why all others do."""
