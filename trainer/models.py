"""Models that are trained, sampled from and evaluated, and how they are written to."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download

from server.models import resolve
from trainer.artefacts import MANIFEST, Artefact, ArtefactError, digest_of

if TYPE_CHECKING:
    from trainer.rows import Template

FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
"""Of a model on the hub."""


@dataclass(frozen=True, slots=True)
class Model:
    """What is trained or asked: a base model by name or path, or what `fit` made."""

    name: str
    path: str
    chat_template: Path | None = None
    artefact: Artefact | None = None

    @classmethod
    def of(cls, name: str, chat_template: Path | None = None) -> "Model":
        """A folder of `fit`, or whatever `redraft serve --model` takes.

        Args:
            name: of it.
            chat_template: of a base model that has none, or in place of its own; what is fitted keeps it.

        Raises:
            ModelError: there is no such model.
            ArtefactError: the folder is of another step; or there is no such template, or the model has its own.
        """
        if chat_template is not None and not chat_template.is_file():
            raise ArtefactError(f"there is no chat template {chat_template}")
        if (fitted := _fit_of(Path(name))) is not None:
            if chat_template is not None:
                raise ArtefactError(f"{name} was fitted with a chat template, and takes no other")
            return cls.fitted(fitted)
        found = resolve(name)
        path = found.path
        if not Path(path).exists():
            # One and the same revision for all that is made of it.
            path = snapshot_download(path, allow_patterns=FILES)
        return cls(name, path, chat_template or found.chat_template)

    @classmethod
    def fitted(cls, artefact: Artefact) -> "Model":
        """What a step made."""
        adapters = list((artefact.folder / "adapters").glob("*"))
        path = adapters[0] if adapters else artefact.folder / "model"
        return cls(str(artefact.folder), str(path), None, artefact)

    @property
    def is_adapter(self) -> bool:
        """Rather than a checkpoint."""
        return (Path(self.path) / "adapter_config.json").is_file()

    @property
    def command(self) -> str:
        """What serves it."""
        if not self.is_adapter:
            return f"redraft serve --model {self.path}"
        base = json.loads((Path(self.path) / "adapter_config.json").read_text())["base_model_name_or_path"]
        return f"redraft serve --model {base} --adapters {Path(self.path).parent}"

    @property
    def served(self) -> str:
        """What `redraft serve --model` is given."""
        of_hub = Path(self.path).parent.name == "snapshots"
        return self.name if self.artefact is None and not of_hub else self.path

    @property
    def settings(self) -> dict[str, Any]:
        """What of it decides an artefact, beside its parents. Raises ArtefactError: it is an adapter alone."""
        if self.is_adapter:
            raise ArtefactError(f"{self.path} is an adapter, and no model: fit it with lora and merge = true")
        if self.artefact is not None:
            return {}
        written = {} if self.chat_template is None else {"chat_template": digest_of(self.chat_template)}
        return {"model": self.name, **_weights(self.path), **written}

    @property
    def parents(self) -> dict[str, Artefact]:
        """What of it decides an artefact."""
        return {} if self.artefact is None else {"model": self.artefact}


def _fit_of(folder: Path) -> Artefact | None:
    """What made a checkpoint or an adapter: a folder of `fit`, or of what lies in one and is served."""
    if (folder / MANIFEST).is_file():
        return Artefact.read(folder, "fit")
    for above in folder.resolve().parents[:2]:
        if (above / MANIFEST).is_file() and (found := Artefact.read(above)).manifest["step"] == "fit":
            return found if Path(Model.fitted(found).path).resolve() == folder.resolve() else None
    return None


@cache
def _weights(path: str) -> dict[str, str]:
    """Which ones a path has: of the hub its revision, of a folder of one's own what is in it."""
    folder = Path(path)
    if folder.parent.name == "snapshots":
        return {"revision": folder.name}
    return {"weights": digest_of(folder)} if folder.exists() else {}


def template_of(model: Model, token: str | None = None) -> "Template":
    """How a model's questions and answers are written. A token that it lacks gets the id that training gives it."""
    from transformers import AutoTokenizer, GenerationConfig

    from trainer.rows import Template

    tokenizer: Any = AutoTokenizer.from_pretrained(model.path)
    if model.chat_template is not None:
        tokenizer.chat_template = model.chat_template.read_text(encoding="utf-8")
    if tokenizer.chat_template is None:
        raise ArtefactError(f"{model.name} has no chat template: name a Jinja file of one, as chat_template")
    if token is not None and (known := tokenizer.get_vocab().get(token)) is not None:
        # A word's token would come in any answer, and the strategy refuses both.
        if token not in tokenizer.get_added_vocab() or known == tokenizer.eos_token_id:
            raise ArtefactError(f"{token!r} is no token that can be taught: it is a word's, or ends answers")
    elif token is not None:
        tokenizer.add_special_tokens({"additional_special_tokens": [token]}, replace_extra_special_tokens=False)
    try:
        ends = GenerationConfig.from_pretrained(model.path).eos_token_id
    except OSError:  # It has no such file.
        ends = None
    return Template(tokenizer, [ends] if isinstance(ends, int) else ends or [])
