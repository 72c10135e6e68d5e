"""`redraft bench`: whether a way to ask is worth its tokens, measured over HTTP."""

import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Compare ways to ask, on any OpenAI-compatible endpoint."
)
console = Console(stderr=True)
EXPECTED = {"CompareError", "SuiteError", "PackageError", "SandboxError"}
"""Errors of which the text says all."""


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Says what is wrong in a line, and no more."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except ModuleNotFoundError as error:
            console.print(f"[red]{error.name} is not installed.[/red] pip install 'redraft\\[bench]'")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            console.print("stopped; the same command goes on")
            raise typer.Exit(130) from None
        except Exception as error:
            # By name: to import them all would take longer than most commands.
            if not EXPECTED & {kind.__name__ for kind in type(error).__mro__}:
                raise
            console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None

    return guarded


@app.command()
@_guarded
def compare(
    out: Annotated[Path, typer.Argument(help="Folder of answers and report; a run that was stopped goes on in it.")],
    config: Annotated[Path | None, typer.Option(help="TOML file of settings and arms; options go over it.")] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help='LABEL=, LABEL=STRATEGY or LABEL=STRATEGY:{"params": {...}, ...}; may be given again.'),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="As `redraft bench suites` lists them.")] = None,
    count: Annotated[int | None, typer.Option(help="Items; all by default.")] = None,
    answers: Annotated[int | None, typer.Option(help="To each item, of each arm.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides items, order and answers.")] = None,
    url: Annotated[str | None, typer.Option(help="Base URL of an endpoint; its key is in OPENAI_API_KEY.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name there.")] = None,
    serve: Annotated[str | None, typer.Option(help="Model that redraft serves for the run, instead of a URL.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of arms without their own.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Likewise.")] = None,
    at_once: Annotated[int | None, typer.Option(help="Requests under way.")] = None,
    run_code: Annotated[bool | None, typer.Option("--run-code", help="Run what a model wrote, in a sandbox.")] = None,
) -> None:
    """Ask the same items in several ways; a report says what each is worth, and takes."""
    options = {name: value for name, value in locals().items() if name not in ("out", "config", "arm")}
    from benchmarks.compare.run import compare as run
    from benchmarks.compare.settings import settings_of
    from benchmarks.machine import shown

    settings = settings_of(config, options, arm)
    command = shlex.join(["redraft", *map(shown, sys.argv[1:])])
    page = run(out, settings, command, console)
    console.print(f"[green]report:[/green] {page}", highlight=False, soft_wrap=True)


@app.command()
@_guarded
def suites(
    check: Annotated[bool, typer.Option("--check", help="Look whether data that is not here can be had.")] = False,
) -> None:
    """List suites, and where their data are."""
    from benchmarks.suites.listing import listing

    table = Table("suite", "what it asks", "graded by", "needs", "data")
    with console.status("looking for data"):
        for one in listing(check):
            table.add_row(one.name, one.asks, one.graded, one.needs, one.data)
    Console().print(table)
