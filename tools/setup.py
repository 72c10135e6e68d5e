"""Makes `.venv` from a lock file: `python3.11 tools/setup.py`. Standard library only, since nothing is installed yet.

Running it again when nothing has changed costs a fraction of a second; when something has, pip updates what differs.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "setup.json"
LOG = VENV / "setup.log"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

FREE_GIB = {"cpu": 5, "cuda": 25}
SHARED_LIBRARIES = {"libnuma.so.1": "libnuma1", "libstdc++.so.6": "libstdc++6"}
NEEDS_C_COMPILER = {"pycosat"}


class SetupError(Exception):
    """Set-up can't go on; the text says why, and what to do next."""


def main(argv: Sequence[str] | None = None) -> int:
    """Set up, or say what is in the way; returns the exit status."""
    parser = argparse.ArgumentParser(description="Create or update .venv from requirements/*.lock.")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda with a GPU")
    parser.add_argument("--no-project", action="store_true", help="install the dependencies only")
    options = parser.parse_args(argv)
    try:
        setup(options.device, project=not options.no_project)
    except SetupError as error:
        print(f"\nSet-up stopped. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run it again: it goes on from here.", file=sys.stderr)
        return 130
    return 0


def setup(device: str, *, project: bool) -> None:
    """Bring `.venv` in line with the lock of `device` ("auto", "cpu" or "cuda").

    Raises:
        SetupError: with what to do about it.
    """
    stamp = read_stamp()
    if device == "auto":
        device = stamp.get("device") or ("cuda" if has_gpu() else "cpu")
    pins = read_pins(device)
    skipped = sorted(NEEDS_C_COMPILER & pins.keys()) if not has_c_compiler() else []
    for name in skipped:
        del pins[name]
    wanted = {"device": device, "digest": digest(pins, project)}
    if stamp == wanted:
        print(f"{VENV.name} is up to date ({device}).")
        return

    check_machine(device)
    print(f"Setting up {VENV.name} for {device}: {len(pins)} packages.")
    if stamp and stamp["device"] != device:
        print(f"It held the {stamp['device']} packages; starting afresh.")
        shutil.rmtree(VENV)
    make_venv()
    STAMP.unlink(missing_ok=True)
    LOG.unlink(missing_ok=True)
    # torch first, for its build may need another index; setuptools with it, to build the rest without fetching another.
    install("torch and setuptools", [pins["torch"], pins["setuptools"]], [TORCH_CPU_INDEX] if device == "cpu" else [])
    install("everything else", list(pins.values()))
    if project:
        install("redraft", ["--config-settings", "editable_mode=compat", "--editable", str(ROOT)])
    if sys.dont_write_bytecode:
        compile_packages()
    STAMP.write_text(json.dumps(wanted))

    print(f"Done: {VENV.name} is ready.")
    if skipped:
        print(
            f"Left out for want of a C compiler: {', '.join(skipped)}. Only the reasoning-gym benchmark needs it.\n"
            "To have it: apt-get install gcc python3.11-dev, then make setup."
        )


def read_stamp() -> dict[str, str]:
    """What the last set-up that finished wrote down; empty if none did."""
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp


def read_pins(device: str) -> dict[str, str]:
    """The lines of a lock file by package name.

    Raises:
        SetupError: the file isn't there.
    """
    lock = ROOT / "requirements" / f"{device}.lock"
    if not lock.is_file():
        raise SetupError(f"{lock.relative_to(ROOT)} is missing: git checkout -- requirements")
    lines = (line.strip() for line in lock.read_text().splitlines())
    return {re.split("===?", line)[0].lower(): line for line in lines if line and not line.startswith("#")}


def digest(pins: dict[str, str], project: bool) -> str:
    """A hash of all that decides what `.venv` should hold, this checkout's place included."""
    parts = [*pins.values(), (ROOT / "pyproject.toml").read_text(), str(ROOT), str(project)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def has_gpu() -> bool:
    """Whether NVIDIA's driver answers."""
    if shutil.which("nvidia-smi") is None:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30, check=False).returncode == 0
    return False


def has_c_compiler() -> bool:
    """Whether a C extension can be built here."""
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return headers.is_file() and any(shutil.which(name) for name in ("cc", "gcc", "clang"))


def check_machine(device: str) -> None:
    """Find out in a moment what would otherwise fail after minutes.

    Raises:
        SetupError: the machine lacks something.
    """
    if sys.version_info[:2] != (3, 11):
        raise SetupError(f"This is Python {platform.python_version()}, and the lock is for 3.11: use python3.11.")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError("The locks are for Linux on x86_64: use such a machine, or a container with the Dockerfile.")
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < FREE_GIB[device] and not STAMP.exists():
        raise SetupError(f"{FREE_GIB[device]} GiB are needed and {free:.1f} GiB are free: make room on this disk.")
    missing = [package for library, package in SHARED_LIBRARIES.items() if not can_load(library)]
    if missing:
        raise SetupError(f"A system library is missing: apt-get install {' '.join(missing)}, then make setup.")


def can_load(library: str) -> bool:
    """Whether the dynamic linker finds `library`."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def make_venv() -> None:
    """Create `.venv`, or keep the one that's there.

    Raises:
        SetupError: Python's venv module doesn't work, or `.venv` is of another Python.
    """
    python = VENV / "bin" / "python"
    ask = [str(python), "-c", "import pip, sys; print(*sys.version_info[:2], sep='.')"]
    if python.exists():
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.strip() == "3.11":
            return
        raise SetupError(f"{VENV.name} is broken or not of Python 3.11: make clean, then make setup.")
    made = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetupError(
            "Python can't make a virtual environment: apt-get install python3.11-venv, then make setup.\n"
            + (made.stdout + made.stderr).strip()
        )


def count_installed() -> int:
    """How many packages `.venv` holds."""
    return sum(1 for _ in VENV.glob("lib/python3.11/site-packages/*.dist-info"))


def install(what: str, arguments: list[str], fallback_indexes: Sequence[str] = ()) -> None:
    """Have pip install `arguments` with its own configuration, then with each of `fallback_indexes` added.

    Raises:
        SetupError: none of the tries worked.
    """
    # Compiling every module of every package takes a minute; Python compiles the few that run when they first do.
    command = [
        str(VENV / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-compile",
    ]
    for index in (None, *fallback_indexes):
        if index:
            print(f"Not found there; trying {index}.")
        if run_pip(what, [*command, *(["--extra-index-url", index] if index else []), *arguments]):
            return
    log = LOG.read_text().splitlines()
    reasons = [line for line in log if line.startswith("ERROR")][-3:] or log[-10:]
    raise SetupError(
        "\n".join(
            [
                f"pip could not install {what}:",
                *(f"  {line[:200]}" for line in reasons),
                "If that is the network or a proxy, run make setup again: it goes on from here. Packages come from",
                f"PyPI or the index that pip is configured for. Everything that pip said: {LOG.relative_to(ROOT)}",
            ]
        )
    )


def compile_packages() -> None:
    """Compiles all packages: where Python is told to keep no bytecode, every process would compile vLLM's anew, which
    takes it half a minute. Some packages ship templates that are no valid Python: those stay as they are.
    """
    print("Compiling, for Python is told to write no bytecode (PYTHONDONTWRITEBYTECODE).")
    folder = VENV / "lib" / "python3.11" / "site-packages"
    command = [str(VENV / "bin" / "python"), "-m", "compileall", "-q", "-j", "0", str(folder)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def run_pip(what: str, command: list[str]) -> bool:
    """Run pip, its output going to the log and its progress to one line; whether it worked."""
    environment = os.environ | {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_PROGRESS_BAR": "off",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PYTHONUNBUFFERED": "1",
    }
    pip = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert pip.stdout is not None
    progress = Progress(what)
    reader = threading.Thread(target=progress.follow, args=[pip.stdout], daemon=True)
    reader.start()
    try:
        progress.show(pip)
    except BaseException:
        pip.terminate()
        raise
    reader.join()
    return pip.returncode == 0


class Progress:
    """What pip is doing, read off its output, in one line: redrawn on a terminal, else printed now and then."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.doing = "starting"
        self.found = 0
        self.unpacking = 0
        self.start = time.monotonic()

    def follow(self, output: IO[str]) -> None:
        """Read pip's lines until it ends, and keep them in the log."""
        with LOG.open("a") as log:
            for line in output:
                log.write(line)
                log.flush()
                self.read(line)

    def read(self, line: str) -> None:
        """Take from one line of pip's what it says about progress."""
        words = line.split()
        match words[:2]:
            case ["Collecting", name]:
                self.found += 1
                self.doing = f"{self.found} found, {name}"
            case ["Requirement", "already"]:
                self.found += 1
            case ["Downloading", file] if not file.endswith(".metadata"):
                self.doing = f"{self.found} found, downloading {' '.join(words[1:]).rsplit('/', 1)[-1]}"
            case ["Building", "wheel"]:
                self.doing = f"building {words[3]}"
            case ["Installing", "collected"]:
                self.unpacking = len(words) - 3

    def show(self, pip: subprocess.Popen[str]) -> None:
        """Draw until pip ends."""
        terminal = sys.stdout.isatty()
        last_seen = ""
        before = count_installed()
        for seconds in self.ticks(pip, 0.2 if terminal else 10):
            if self.unpacking:
                self.doing = f"unpacked {count_installed() - before} of {self.unpacking}"
            line = f"  {self.what}: {self.doing} ({seconds:.0f} s)"
            if terminal:
                width = shutil.get_terminal_size().columns - 1
                print(f"\r\033[K{line[:width]}", end="", flush=True)
            elif self.doing != last_seen:
                print(line, flush=True)
            last_seen = self.doing
        outcome = "done" if pip.returncode == 0 else "failed"
        print(f"{chr(13) + chr(27) + '[K' if terminal else ''}  {self.what}: {outcome} ({self.elapsed():.0f} s)")

    def ticks(self, pip: subprocess.Popen[str], interval: float) -> Iterator[float]:
        """The seconds since the start, every `interval` seconds while pip runs."""
        for _ in itertools.count():
            try:
                pip.wait(interval)
            except subprocess.TimeoutExpired:
                yield self.elapsed()
            else:
                return

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start


if __name__ == "__main__":
    sys.exit(main())
