"""Self-consistency: several answers side by side, the most frequent one wins."""

from strategies.self_consistency.strategy import SelfConsistency, SelfConsistencyParams

__all__ = ["SelfConsistency", "SelfConsistencyParams"]
