"""A comparison on disk: its settings, and lines of JSON that are there once they are written."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.compare.errors import CompareError
from benchmarks.compare.plan import Key
from benchmarks.compare.settings import Settings
from benchmarks.suites import Item


class Log:
    """Lines at the end of a file, each on the disk before the next is thought of."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; half a line is what a cut left, and is cut off before the next is added."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def add(self, line: Mapping[str, Any]) -> None:
        """Puts a line at the end. Waits for the disk."""
        with self.path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


class Folder:
    """Where a comparison is.

    Attributes:
        answers: a line each, and for each failure.
        blocks: what the engine counted, a line for each that came to its end.
        sessions: a line for each time that the run was started.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers, self.blocks = Log(path / "answers.jsonl"), Log(path / "blocks.jsonl")
        self.sessions = Log(path / "sessions.jsonl")

    @contextmanager
    def taken(self, settings: Settings, items: Sequence[Item]) -> Iterator[None]:
        """Nobody else's meanwhile, with these settings and a digest of the items written to it.

        Raises:
            CompareError: it holds answers of other settings or items, or another run is at work in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CompareError(f"another run is at work in {self.path}") from None
            asked = json.dumps([[item.id, item.messages, item.tools] for item in items])
            digest = hashlib.sha256(asked.encode()).hexdigest()[:16]
            self._settle({**json.loads(settings.model_dump_json()), "items": digest})
            yield

    def _settle(self, wanted: dict[str, Any]) -> None:
        file = self.path / "settings.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            write_whole(file, json.dumps(wanted, indent=1) + "\n")
            return
        except ValueError as error:
            raise CompareError(f"{file}: {error}") from error
        if other := sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)):
            name = other[0]
            raise CompareError(
                f"{self.path} holds answers of other settings: {name} is {json.dumps(found.get(name))} there and "
                f"{json.dumps(wanted.get(name))} here; take another folder"
            )

    def there(self) -> set[Key]:
        """What has an answer. A failure is none: it is asked again."""
        return {key_of(line) for line in self.answers.read() if line["error"] is None}

    def next_block(self) -> int:
        """The number of the next block: those that were cut off count."""
        return 1 + max((line["block"] for line in [*self.answers.read(), *self.blocks.read()]), default=-1)


def key_of(line: Mapping[str, Any]) -> Key:
    """Of a line of answers."""
    return line["arm"], line["item"], line["answer"]


def write_whole(path: Path, text: str) -> None:
    """A file that is the old one or the new one at any time."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
