"""What a load comes to, by whomever it was made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.loading.arrivals import Loaded
from benchmarks.stats import quantile


class BenchError(RuntimeError):
    """`vllm bench serve` failed, or wrote something else than it should."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One load.

    Attributes:
        requests: that were sent.
        errors: those of them that failed, one text each.
        seconds: from the start to the last answer.
        tokens: completion tokens of all answers, hidden ones included.
        latency: seconds of each answer from when its request came.
        first_thought: seconds to each first text that is no part of the answer.
        first_answer: seconds to each first text of an answer.
        waited: the longest delay by the load generator itself, in seconds.
    """

    requests: int
    errors: Sequence[str]
    seconds: float
    tokens: int
    latency: Sequence[float]
    first_thought: Sequence[float]
    first_answer: Sequence[float]
    waited: float = 0.0

    @classmethod
    def of(cls, loaded: Loaded) -> "Summary":
        """Of a load of ours."""
        good = [one for one in loaded.served if not one.heard.error]

        def since_due(what: str) -> list[float]:
            values = [(one.waited, getattr(one.heard, what)) for one in good]
            return [waited + value for waited, value in values if value is not None]

        return cls(
            len(loaded.served),
            [one.heard.error for one in loaded.served if one.heard.error],
            loaded.seconds,
            sum(one.heard.reported["completion"] for one in good),
            since_due("seconds"),
            since_due("first_thought"),
            since_due("first_answer"),
            max((one.waited for one in loaded.served), default=0.0),
        )

    @classmethod
    def of_vllm(cls, result: Mapping[str, Any]) -> "Summary":
        """Of the detailed result of `vllm bench serve`. Raises BenchError."""
        try:
            errors = [error for error in result["errors"] if error]
            good = [place for place, error in enumerate(result["errors"]) if not error]
            # Without a rate all are taken to come at once, and wait for their turn: no user does.
            comes = result["request_rate"] != "inf"
            queued = [result["queue_times"][place] if comes else 0.0 for place in good]
            latency = [result["latencies"][place] + wait for place, wait in zip(good, queued, strict=True)]
            first = [result["ttfts"][place] + wait for place, wait in zip(good, queued, strict=True)]
            requests = result["completed"] + result["failed"]
            tokens = result["total_output_tokens"]
            return cls(requests, errors, result["duration"], tokens, latency, [], first)
        except (KeyError, IndexError, TypeError) as error:
            raise BenchError(f"its result is not as it should be: {error!r}") from error

    @property
    def request_rate(self) -> float:
        """Answers a second."""
        return len(self.latency) / self.seconds

    @property
    def token_rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    def at(self, what: str, share: float) -> float | None:
        """A quantile of latency, first_thought or first_answer; None if there is none."""
        values = getattr(self, what)
        return quantile(values, share) if values else None
