"""Results on disk, entry by entry, so that a measurement that was cut off goes on where it was."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self


class Journal:
    """A JSON file with the settings of a measurement and what was measured so far.

    Attributes:
        entries: a measurement under its key.
        facts: what the report says of the machine and the servers.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        # As it comes back out of the file.
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.entries: dict[str, Any] = {}
        self.facts: dict[str, Any] = {"sessions": 0}
        self.complete = False

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any]) -> Self:
        """The unfinished measurement of the same settings in `path`, else a new one."""
        journal = cls(path, settings)
        try:
            stored = cls.read(path)
        except FileNotFoundError:
            return journal
        if stored.settings == journal.settings and not stored.complete:
            return stored
        return journal

    @classmethod
    def read(cls, path: Path) -> Self:
        """What is in `path`, finished or not. Raises FileNotFoundError."""
        stored = json.loads(path.read_text())
        journal = cls(path, stored["settings"])
        journal.entries, journal.facts, journal.complete = stored["entries"], stored["facts"], stored["complete"]
        return journal

    def add(self, key: str, entry: Any) -> None:
        """Keeps one measurement."""
        self.entries[key] = entry
        self.save()

    def under(self, *prefix: str) -> list[Any]:
        """All measurements whose keys begin with these parts, in the order of their keys."""
        start = "/".join(prefix) + "/"
        return [self.entries[key] for key in sorted(self.entries) if key.startswith(start)]

    def save(self) -> None:
        """Writes the file as a whole, so that no cut leaves half of one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "settings": self.settings,
            "facts": self.facts,
            "complete": self.complete,
            "entries": self.entries,
        }
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(partial, self.path)
