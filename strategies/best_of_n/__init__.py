"""Best of n by the model's own confidence."""

from strategies.best_of_n.strategy import BestOfN, BestOfNParams

__all__ = ["BestOfN", "BestOfNParams"]
