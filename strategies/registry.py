"""Finds strategies: everything that installed distributions announce as `redraft.strategies`."""

from importlib.metadata import entry_points

from strategies.base import Decoder, Plugin, Strategy

GROUP = "redraft.strategies"


def load_strategies() -> dict[str, type[Plugin]]:
    """All strategies by name, sorted.

    Raises:
        RuntimeError: a plugin does not import, is no Strategy or Decoder, is announced under another name than its
            own, or takes a name that is taken. An operator who installed it wants to know at start.
    """
    found: dict[str, type[Plugin]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            plugin = point.load()
        except Exception as error:
            raise RuntimeError(f"strategy {point.name!r} ({point.value}) does not import: {error}") from error
        if not (isinstance(plugin, type) and issubclass(plugin, Strategy | Decoder)):
            raise RuntimeError(f"strategy {point.name!r} ({point.value}) is no Strategy and no Decoder")
        if plugin.name != point.name:
            raise RuntimeError(f"strategy {point.name!r} ({point.value}) calls itself {plugin.name!r}")
        if any(sign in point.name for sign in "@+"):
            raise RuntimeError(f"strategy {point.name!r}: '@' and '+' cannot stand in a name")
        if found.setdefault(point.name, plugin) is not plugin:
            raise RuntimeError(f"strategy {point.name!r} is announced twice")
    return found
