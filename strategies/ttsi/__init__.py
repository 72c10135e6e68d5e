"""TT-SI: a model that is not sure of a request writes itself similar ones, and learns from them before it answers."""

from strategies.ttsi.strategy import TTSI, TTSIParams

__all__ = ["TTSI", "TTSIParams"]
