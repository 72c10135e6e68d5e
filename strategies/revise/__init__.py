"""ReVISE: the model itself chooses, after an attempt, between its end and another one."""

from strategies.revise.strategy import Revise, ReviseParams

__all__ = ["Revise", "ReviseParams"]
