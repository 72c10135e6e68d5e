"""From what the operator asks for to what the engine loads."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.models.default import CHAT_TEMPLATE, HUB_ID, SERVED_NAME, TOOL_CALL_PARSER, packaged_gguf, prepare_default
from server.models.errors import ModelError

HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
RESERVED = {"@": "parts a model from a strategy", "+": "joins strategies"}


@dataclass(frozen=True)
class ResolvedModel:
    """A model that the engine can load.

    Attributes:
        path: Directory, or Hugging Face id.
        served_name: What clients call it.
        chat_template: Jinja file to use in place of the model's own template.
        tool_call_parser: vLLM's name of the parser for the model's tool calls.
        local: Whether everything is on this machine, so that nothing should ask the Hugging Face hub.
    """

    path: str
    served_name: str
    chat_template: Path | None = None
    tool_call_parser: str | None = None
    local: bool = False


def resolve(
    model: str | None, *, served_name: str | None = None, on_step: Callable[[str], None] = lambda step: None
) -> ResolvedModel:
    """Find `model`: None or "smollm2-135m" for the default, a directory, or a Hugging Face id.

    The default is converted here if it wasn't before; `on_step` hears of it as in `prepare_default`.

    Raises:
        ModelError: there is no such checkpoint, or its name can't be served.
    """
    if model is None or (model == SERVED_NAME and not Path(model).exists()):
        resolved = resolve_default(served_name or SERVED_NAME, on_step)
    elif is_path(model):
        folder = Path(model).expanduser().absolute()
        check_checkpoint(folder)
        parser = tool_call_parser_of(folder)
        resolved = ResolvedModel(str(folder), served_name or folder.name, tool_call_parser=parser, local=True)
    else:
        resolved = ResolvedModel(model, served_name or model.rsplit("/", 1)[-1])
        if not HUB_ID_PATTERN.fullmatch(model):
            raise ModelError(f"{model!r} is neither a directory here nor a Hugging Face id such as {HUB_ID}.")
    check_served_name(resolved.served_name)
    return resolved


def resolve_default(served_name: str, on_step: Callable[[str], None]) -> ResolvedModel:
    """The default model from its package, or from the Hugging Face hub where the package isn't installed."""
    local = packaged_gguf() is not None
    path = str(prepare_default(on_step)) if local else HUB_ID
    return ResolvedModel(path, served_name, CHAT_TEMPLATE, TOOL_CALL_PARSER, local)


def tool_call_parser_of(folder: Path) -> str | None:
    """VLLM's parser for the way in which a checkpoint's chat template writes tool calls, if it is the common one.

    That is a JSON object between <tool_call> tags, as the default model, what is trained from it, and many others
    have it. Some models write XML between the same tags.
    """
    template = folder / "chat_template.jinja"
    config = folder / "tokenizer_config.json"
    text = "".join(file.read_text(errors="replace") for file in (template, config) if file.is_file())
    return TOOL_CALL_PARSER if "<tool_call>" in text and "<function=" not in text else None


def is_path(model: str) -> bool:
    """Whether `model` means something on this machine, there or not."""
    return model.startswith(("/", "./", "../", "~")) or Path(model).exists()


def check_checkpoint(folder: Path) -> None:
    """See that `folder` holds a whole model.

    Raises:
        ModelError: it doesn't.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a directory; a model is a directory with config.json and weights.")
    if (folder / "config.json").is_file() or (folder / "params.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder} holds a LoRA adapter: serve the model it was trained from, with --enable-lora.")
    raise ModelError(f"{folder} has no config.json: is it a checkpoint?")


def check_served_name(name: str) -> None:
    """See that clients can write `name` before `@STRATEGY`.

    Raises:
        ModelError: they can't.
    """
    if not name.strip():
        raise ModelError("The model needs a name for clients to use: choose one with --served-model-name.")
    for character, meaning in RESERVED.items():
        if character in name:
            raise ModelError(
                f"{name!r} can't be served by this name, for {character!r} {meaning}: "
                "choose another with --served-model-name."
            )
