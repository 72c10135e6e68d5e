"""Self-Refine: draft, criticise, revise."""

from strategies.self_refine.strategy import SelfRefine, SelfRefineParams

__all__ = ["SelfRefine", "SelfRefineParams"]
