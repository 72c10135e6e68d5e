"""Where checkpoints that redraft makes are kept."""

import os
from pathlib import Path

CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def cache_dir() -> Path:
    """`$REDRAFT_CACHE`, else `redraft` in the user's cache directory. It may not exist yet."""
    if own := os.environ.get("REDRAFT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "redraft"


def models_dir() -> Path:
    """Where converted checkpoints lie, each in a directory of its own. It may not exist yet."""
    return cache_dir() / "models"


def is_complete(checkpoint: Path) -> bool:
    """Whether `checkpoint` has every file that a conversion writes."""
    return all((checkpoint / name).is_file() for name in CHECKPOINT_FILES)
