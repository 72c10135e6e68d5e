"""Iterative-deepening sampling: an answer that doubts itself at growing budgets."""

from strategies.iterative_deepening.strategy import IterativeDeepening, IterativeDeepeningParams

__all__ = ["IterativeDeepening", "IterativeDeepeningParams"]
