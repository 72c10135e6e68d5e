"""Which model is served: the default one, a local checkpoint, or a Hugging Face id."""

from server.models.default import prepare_default
from server.models.errors import ModelError
from server.models.listing import ListedModel, list_models
from server.models.resolution import ResolvedModel, check_served_name, resolve

__all__ = [
    "ListedModel",
    "ModelError",
    "ResolvedModel",
    "check_served_name",
    "list_models",
    "prepare_default",
    "resolve",
]
