"""Command-line flags made from a settings model, so that a setting is written down once."""

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_origin

import typer
from pydantic_settings import BaseSettings


def with_setting_flags(settings: type[BaseSettings]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a typer command one flag for each field. Flags that are not given are not passed on, so that the
    environment and the file keep their say.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        context = inspect.signature(command).parameters["context"]
        flags = [_flag(name, settings) for name in settings.model_fields]

        def wrapper(context: typer.Context, **values: Any) -> None:
            command(context, **{name: value for name, value in values.items() if value not in (None, [])})

        parameters = [context, *flags]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        return wrapper

    return decorate


def _flag(name: str, settings: type[BaseSettings]) -> inspect.Parameter:
    field = settings.model_fields[name]
    kind = field.annotation
    flag = f"--{name.replace('_', '-')}"
    if get_origin(kind) is tuple:
        annotation: Any = list[str] | None
    else:
        annotation = kind if type(None) in get_args(kind) else kind | None  # type: ignore[operator]
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
    default = "" if field.default in (None, ()) else f" (default: {field.default})"
    option = typer.Option(None, *names, help=f"{field.description}{default}", show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)
