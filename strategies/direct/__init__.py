"""One call, no method: what every strategy is compared with."""

from strategies.direct.strategy import Direct

__all__ = ["Direct"]
