"""Self-rewards: what a model's own probabilities say of its answer. Larger is better, units are nats per token."""

import math
from importlib.metadata import entry_points
from typing import Protocol

from strategies.engine import Generation, TokenLogprobs

SCORERS = {point.name: point for point in entry_points(group="redraft.scorers")}
"""Pluggable: a distribution announces a Scorer class in the entry-point group `redraft.scorers`."""


class Scorer(Protocol):
    """Scores an answer token by token; an answer's score is the mean over its tokens."""

    likeliest: int
    """How many of the likeliest tokens it needs to see at each position; 0 for the sampled one only."""

    def token(self, logprobs: TokenLogprobs, token_id: int, vocab_size: int) -> float:
        """The score of the token sampled at one position."""
        ...


def require_scorer(name: str) -> str:
    """The name of a scorer. Raises ValueError for one that nobody announces."""
    if name not in SCORERS:
        raise ValueError(f"unknown scorer {name!r}; there are: {', '.join(sorted(SCORERS))}")
    return name


def scorer_of(name: str) -> Scorer:
    """The scorer of a name."""
    scorer: Scorer = SCORERS[name].load()()
    return scorer


class MeanLogprob:
    """Log-probability of the sampled token: length-normalised likelihood, the self-reward of sharpening."""

    likeliest = 0

    def token(self, logprobs: TokenLogprobs, token_id: int, vocab_size: int) -> float:
        """Log p of the sampled token."""
        return logprobs[token_id].logprob


class SelfCertainty:
    """Self-certainty (Kang et al. 2025, arXiv 2502.18581): KL(uniform || p) = -1/V sum_j log(V p_j).

    Deviation: the engine returns the likeliest k tokens, not all V. What is left of the probability is spread evenly
    over the other V - k, which makes this the least value that the exact one can have, given those k.
    """

    likeliest = 20

    def token(self, logprobs: TokenLogprobs, token_id: int, vocab_size: int) -> float:
        """KL(uniform || p) at one position."""
        # A grammar leaves minus infinity at the tokens it forbids; they count among the unseen.
        seen = [entry.logprob for entry in logprobs.values() if entry.logprob > -math.inf]
        unseen = vocab_size - len(seen)
        total = sum(seen)
        if unseen > 0:
            rest = max(1.0 - sum(math.exp(logprob) for logprob in seen), _LEAST_REST)
            total += unseen * math.log(rest / unseen)
        return -total / vocab_size - math.log(vocab_size)


_LEAST_REST = 1e-6
"""A smaller rest is rounding: the engine's log-probabilities are float32. It may even be negative."""


def mean_logprob(generation: Generation) -> float:
    """Mean log-probability of an answer's tokens in nats, without those that are not the model's; minus infinity if it
    has none.
    """
    positions = zip(generation.logprobs or (), generation.token_ids, strict=generation.logprobs is not None)
    scores = [at[token].logprob for at, token in positions if at]
    return sum(scores) / len(scores) if scores else -math.inf
