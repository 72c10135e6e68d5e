"""The models that are on this machine."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from server.models.cache import is_complete, models_dir
from server.models.default import SERVED_NAME, default_checkpoint
from server.models.errors import ModelError


@dataclass(frozen=True)
class ListedModel:
    """A model that can be served without fetching anything, or the default before its conversion.

    Attributes:
        argument: What to give `redraft serve --model`.
        place: Where it comes from, for people to read.
        size_bytes: Its size on disk; 0 if it isn't there yet.
    """

    argument: str
    place: str
    size_bytes: int


def list_models() -> list[ListedModel]:
    """The default model, other checkpoints in redraft's cache, then models in the Hugging Face cache."""
    return [listed_default(), *listed_checkpoints(), *listed_hub()]


def listed_default() -> ListedModel:
    """The default model in the state it is in."""
    try:
        checkpoint = default_checkpoint()
    except ModelError:
        return ListedModel(SERVED_NAME, "default, from the Hugging Face hub when first served", 0)
    if not is_complete(checkpoint):
        return ListedModel(SERVED_NAME, "default, converted when first served", 0)
    return ListedModel(SERVED_NAME, f"default, {checkpoint}", size_of(checkpoint))


def listed_checkpoints() -> list[ListedModel]:
    """What else lies in redraft's cache."""
    try:
        default = default_checkpoint()
    except ModelError:
        default = None
    folders = sorted(path.parent for path in models_dir().glob("[!.]*/config.json"))
    return [ListedModel(str(folder), "redraft's cache", size_of(folder)) for folder in folders if folder != default]


def listed_hub() -> list[ListedModel]:
    """What the Hugging Face libraries have fetched."""
    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    models = sorted((repo for repo in repos if repo.repo_type == "model"), key=lambda repo: repo.repo_id)
    return [ListedModel(repo.repo_id, "Hugging Face cache", repo.size_on_disk) for repo in models]


def size_of(folder: Path) -> int:
    """Bytes of all files in `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
