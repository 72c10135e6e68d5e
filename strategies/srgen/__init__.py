"""SRGen, arXiv 2510.02919."""

from strategies.srgen.decoder import SRGen
from strategies.srgen.request import SRGenParams

__all__ = ["SRGen", "SRGenParams"]
