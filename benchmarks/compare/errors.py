"""What can go wrong with a comparison, told in one line."""

from collections.abc import Callable, Iterable
from typing import Any


class CompareError(ValueError):
    """A setting, a folder or an endpoint is not as it must be; the text says how."""


def told(where: str, errors: Iterable[Any], shown: Callable[[str], str] = str) -> str:
    """What pydantic finds wrong, in a line.

    Args:
        where: what was read.
        errors: of a ValidationError.
        shown: what a person calls a field.
    """
    said = "; ".join(f"{shown('.'.join(map(str, one['loc'])))}: {one['msg']}" for one in errors)
    return f"{where}: {said}" if where else said
