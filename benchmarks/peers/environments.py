"""Virtual environments for programs whose dependencies are not ours."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

LOCKS = Path(__file__).parent
ERROR_CHARACTERS = 500


class PeerError(RuntimeError):
    """A peer cannot be installed, started or set up."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment of one program.

    Attributes:
        name: of the program, as pip knows it.
        lock: a requirements file with every package that is installed, at one version.
    """

    name: str
    lock: Path

    @property
    def folder(self) -> Path:
        """Where it is, or will be: another one for other versions."""
        digest = hashlib.sha256(self.lock.read_bytes()).hexdigest()[:12]
        return _cache() / f"{self.name}-{digest}"

    def command(self, script: str) -> Path:
        """An installed script, of an environment that the first call makes. Raises PeerError."""
        complete = self.folder / "complete"
        if not complete.exists():
            self._make()
            complete.touch()
        return self.folder / "bin" / script

    def _make(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        venv.create(self.folder, with_pip=False, symlinks=True)
        install = ("-m", "pip", "--python", str(self.folder), "install", "--quiet", "--no-deps", "-r", str(self.lock))
        done = subprocess.run([sys.executable, *install], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerError(f"pip cannot install {self.name}: {done.stderr.strip()[-ERROR_CHARACTERS:]}")


ENVIRONMENTS: Mapping[str, Environment] = MappingProxyType(
    {
        "optillm": Environment("optillm", LOCKS / "optillm.lock"),
        "its_hub": Environment("its_hub", LOCKS / "its_hub.lock"),
    }
)


def _cache() -> Path:
    """Beside the checkpoints that the server keeps."""
    if own := os.environ.get("REDRAFT_CACHE"):
        return Path(own).expanduser() / "peers"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "redraft" / "peers"
