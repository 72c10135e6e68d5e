"""What decides the numbers of the comparison with peers."""

from dataclasses import dataclass, field

from benchmarks import machine
from benchmarks.servers import EngineFlags

TASK = "gym:chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=2"


@dataclass(frozen=True)
class Settings:
    """A journal of other settings is not continued.

    Attributes:
        quick: whether it is a smoke test.
        seed: of prompts, items and orders.
        rounds: of latencies.
        plain_requests: one after the other, whose median is a round's figure.
        words: of a prompt where answers are of no interest.
        tokens: of such an answer.
        at_once: requests of a crowd.
        crowd_rounds: those with crowds.
        leaves: rounds with clients that leave.
        left_share: of the whole request's seconds, after which a client leaves.
        task: that accuracy is measured on, one where the model is right 30 to 70% of the time.
        items: of the task.
        block: of items, which go to one arm after the other.
        items_at_once: of a block.
        answer_tokens: of an answer to an item.
        samples: of the vote by hand that others are compared with.
        flags: of both engines.
    """

    quick: bool = False
    seed: int = 1
    rounds: int = 5
    plain_requests: int = 3
    words: int = 40
    tokens: int = 32
    at_once: int = 32
    crowd_rounds: int = 2
    leaves: int = 3
    left_share: float = 0.3
    task: str = TASK
    items: int = 200
    block: int = 20
    items_at_once: int = 8
    answer_tokens: int = 192
    samples: int = 8
    # Room for a crowd of votes in one batch.
    flags: EngineFlags = field(default_factory=lambda: EngineFlags(max_num_seqs=192, kv_cache_gib=2.0))
    versions: dict[str, str] = field(default_factory=machine.versions)
    code: str = field(default_factory=machine.measured_code)


def quick_settings(seed: int, task: str) -> Settings:
    """A smoke test."""
    return Settings(
        quick=True,
        seed=seed,
        rounds=1,
        plain_requests=1,
        words=10,
        tokens=8,
        at_once=4,
        crowd_rounds=1,
        leaves=1,
        task=task,
        items=4,
        block=4,
        answer_tokens=48,
        samples=4,
    )
