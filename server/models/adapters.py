"""The operator's adapters: each folder in one folder, under its own name."""

import json
import re
from pathlib import Path

from server.models.errors import ModelError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def find_adapters(folder: Path) -> dict[str, Path]:
    """Adapters by name, sorted. Hidden folders are none.

    Raises:
        ModelError: there is no such folder, or what is in it is no adapter, or has no name that a request can ask for.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder of adapters.")
    found = {path.name: path.resolve() for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."}
    for name, path in found.items():
        if not _NAME.fullmatch(name):
            raise ModelError(f"{path}: an adapter's name has letters, digits, '.', '_' and '-' only.")
        if not (path / "adapter_config.json").is_file():
            raise ModelError(f"{path} holds no adapter: adapter_config.json is missing.")
    return found


def rank_of(folder: Path) -> int:
    """Of an adapter. Raises ModelError if its configuration does not say."""
    try:
        rank = json.loads((folder / "adapter_config.json").read_text())["r"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'adapter_config.json'} has no rank r.") from error
    if not isinstance(rank, int) or rank < 1:
        raise ModelError(f"{folder / 'adapter_config.json'}: the rank r is {rank!r}.")
    return rank
