"""`redraft models`: what is there to serve, and getting the default model ready."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from server.models.default import prepare_default
from server.models.errors import ModelError
from server.models.listing import list_models

app = typer.Typer(help="List models, or prepare the default one.", no_args_is_help=True)


@app.command("list")
def list_command() -> None:
    """List the models on this machine."""
    table = Table(box=None, pad_edge=False)
    table.add_column("--model", style="bold", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("where", style="dim", overflow="fold")
    for model in list_models():
        size = f"{model.size_bytes / 1e6:,.0f} MB" if model.size_bytes else "-"
        table.add_row(model.argument, size, model.place)
    Console().print(table)


@app.command("prepare")
def prepare_command() -> None:
    """Convert the default model now rather than when the server first starts."""
    console = Console(stderr=True)
    try:
        with show_steps(console) as on_step:
            checkpoint = prepare_default(on_step)
    except ModelError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    console.print("The default model is ready.", style="green")
    print(checkpoint)


@contextmanager
def show_steps(console: Console) -> Iterator[Callable[[str], None]]:
    """Show each step it's told of: with a spinner and the seconds so far on a terminal, as a line elsewhere."""
    if not console.is_terminal:
        yield lambda step: console.print(step, markup=False, highlight=False)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Looking for the default model", total=None)
        yield lambda step: progress.update(task, description=step)
