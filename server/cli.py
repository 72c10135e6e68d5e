"""The `redraft` command."""

import logging
import tomllib
from importlib.metadata import entry_points

import typer
from pydantic import ValidationError
from rich.console import Console

from server.flags import with_setting_flags
from server.models.cli import app as models_app
from server.models.errors import ModelError
from server.settings import CONFIG_FILE, Settings

app = typer.Typer(
    name="redraft", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
app.add_typer(models_app, name="models", help="List and prepare models.")
console = Console(stderr=True)


@app.callback()
def root() -> None:
    """Inference-time self-refinement behind the OpenAI API, on vLLM."""


@app.command(context_settings={"allow_extra_args": True})
@with_setting_flags(Settings)
def serve(context: typer.Context, **flags: object) -> None:
    """Serve a model. Settings come from flags, REDRAFT_* variables, redraft.toml; vLLM's own flags follow a `--`."""
    from server.serving import serve as run_server

    try:
        settings = Settings(**flags)  # type: ignore[arg-type]
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            # Neither a flag nor a variable can have a name that is none.
            unknown = problem["type"] == "extra_forbidden"
            where = f"{CONFIG_FILE}: {name}" if unknown else "--" + name.replace("_", "-")
            console.print(f"[red]{where}[/red]: {'there is no such setting' if unknown else problem['msg']}")
        raise typer.Exit(2) from None
    except tomllib.TOMLDecodeError as error:
        console.print(f"[red]{CONFIG_FILE}[/red] is no TOML: {error}")
        raise typer.Exit(2) from None
    try:
        run_server(settings, context.args, console)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "vllm":
            raise
        console.print(
            "[red]vLLM is not installed.[/red] Install it from the lock (make setup), which is known to work,"
        )
        console.print("or: pip install 'redraft[cpu]', with an NVIDIA GPU pip install 'redraft[cuda]'", markup=False)
        raise typer.Exit(1) from None
    except (ValueError, RuntimeError, OSError, ModelError) as error:
        logging.getLogger("redraft").debug("start failed", exc_info=True)
        console.print(f"[red]redraft could not start:[/red] {error}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def main() -> None:
    """Entry point of the command. Further ones are announced in the entry-point group `redraft.commands`."""
    for found in entry_points(group="redraft.commands"):
        app.add_typer(found.load(), name=found.name)
    app()


if __name__ == "__main__":
    main()
