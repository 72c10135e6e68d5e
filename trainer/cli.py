"""`redraft train`: recipes, and the steps that they are made of, each a command that goes on where it was stopped."""

import functools
import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Train checkpoints that redraft serve takes as they are."
)
console = Console(stderr=True)
RECIPES = {
    "sft": ("SFT", "Recipe: fine-tune on gold answers."),
    "rft": ("RFT", "Recipe: fine-tune on gold answers, then on own right ones."),
    "revise": ("ReVISE", "Recipe: teach a checkpoint to verify its answers, and to think again (arXiv 2502.14565)."),
    "controls": ("Controls", "Compare a run of revise, in the same folder, with controls of as many tokens."),
}
"""By name: the class of its settings, in the module of the same name, and what it does."""

EXPECTED = {"SettingsError", "ArtefactError", "TaskError", "TemplateError", "ModelError", "ServerError"} | {
    "APIError",  # openai's
    "HTTPError",  # httpx's
}
"""Errors of which the text says all."""

Out = Annotated[Path, typer.Argument(help="Folder of what is made; a run that was stopped goes on in it.")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="A setting: verify.learning_rate=1e-5. Values as TOML has them.")
]
ChatTemplate = Annotated[Path | None, typer.Option(help="Jinja file, of a base model that has none.")]
ModelName = Annotated[str, typer.Option(help="As in redraft serve --model, or a folder of redraft train fit.")]


class SettingsError(ValueError):
    """A setting is wrong; the text says which."""


def settings_of(kind: Any, config: Path | None, changes: Sequence[str]) -> Any:
    """Settings of a pydantic model, from a TOML file and from single changes to it. Raises SettingsError."""
    from pydantic import ValidationError

    try:
        values: dict[str, Any] = {} if config is None else tomllib.loads(config.read_text(encoding="utf-8"))
        for change in changes:
            _set(values, change)
        return kind.model_validate(values)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{config}: {error}") from error
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise SettingsError(said) from error


def _set(values: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    if not equals:
        raise SettingsError(f"--set {change}: KEY=VALUE is wanted")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # A word without quotation marks.
    *parents, last = name.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise SettingsError(f"--set {change}: {parent} is a value, and has no {last}")
    values[last] = value


def _listed(kind: Callable[[], Any]) -> Any:
    """An option that lists the settings of a model, for --help is to be quick."""

    def show(asked: bool) -> None:
        if asked:
            table = Table("setting", "default", "what it is", title="For --config and --set")
            for name, default, text in _fields(kind()):
                table.add_row(name, default, text)
            Console().print(table)
            raise typer.Exit

    return typer.Option("--settings", is_eager=True, callback=show, help="List the settings, and end.")


def _fields(kind: Any, before: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if hasattr(type(default), "model_fields"):
            for inner, _, text in _fields(type(default), f"{before}{name}."):
                value = functools.reduce(getattr, inner[len(before) + len(name) + 1 :].split("."), default)
                yield inner, json.dumps(value, default=str), text
        else:
            shown = "" if field.is_required() else json.dumps(default, default=str)
            yield f"{before}{name}", shown, field.description or ""


def _recipe(name: str) -> None:
    def kind() -> Any:
        return getattr(import_module(f"trainer.recipes.{name}"), RECIPES[name][0])

    def command(
        out: Out,
        config: Config = None,
        changes: Changes = None,
        listed: Annotated[bool, _listed(kind)] = False,
    ) -> None:
        module = import_module(f"trainer.recipes.{name}")
        from trainer.run import Run

        settings = settings_of(kind(), config, changes or [])
        model = module.run(Run(out, settings, console), settings)
        console.print(f"[green]serve it:[/green] {model.command}", highlight=False, soft_wrap=True)

    app.command(name, help=RECIPES[name][1])(_guarded(command))


def _guarded(command: Any) -> Any:
    """Says what is wrong in a line, and no more."""
    from functools import wraps

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except ModuleNotFoundError as error:
            console.print(f"[red]{error.name} is not installed.[/red] pip install 'redraft\\[trainer]'")
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


for _name in RECIPES:
    _recipe(_name)


@app.command()
@_guarded
def problems(
    out: Out,
    task: Annotated[str, typer.Option(help="gym:NAME, file:PATH or hub:ID[:SPLIT], each with [:KEY=VALUE,...].")],
    count: Annotated[int, typer.Option(help="At most.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of tasks that are made.")] = 0,
    without: Annotated[
        list[Path] | None, typer.Option(help="Folder of problems that must not be among them; may be given again.")
    ] = None,
) -> None:
    """Step: draw problems of a task."""
    from trainer.artefacts import Artefact
    from trainer.problems import draw_problems

    others = {str(folder): Artefact.read(folder) for folder in without or ()}
    _say(draw_problems(out, task, count, seed, others))


@app.command()
@_guarded
def sample(
    out: Out,
    problems: Annotated[Path, typer.Option(help="Folder of problems.")],
    model: ModelName = "smollm2-135m",
    config: Config = None,
    changes: Changes = None,
    listed: Annotated[bool, _listed(lambda: _served("trainer.sampling", "SampleSettings"))] = False,
) -> None:
    """Step: sample answers of a model."""
    from trainer.artefacts import Artefact
    from trainer.models import Model
    from trainer.sampling import sample as run

    settings = settings_of(_served("trainer.sampling", "SampleSettings"), config, changes or [])
    asked = Artefact.read(problems, "problems")
    _say(run(out, Model.of(model), asked, settings.of_step, settings.serve, console))


@app.command()
@_guarded
def grade(
    out: Out,
    samples: Annotated[Path, typer.Option(help="Folder of samples.")],
    problems: Annotated[Path, typer.Option(help="Folder of their problems.")],
    grader: Annotated[str | None, typer.Option(help="math, exact or gym; by default the task's.")] = None,
    token: Annotated[str | None, typer.Option(help="The refine token, which parts attempts.")] = None,
) -> None:
    """Step: tell which samples are right."""
    from trainer import steps
    from trainer.artefacts import Artefact
    from trainer.grading import grader_of
    from trainer.models import Model, template_of

    asked, answers = Artefact.read(problems, "problems"), Artefact.read(samples, "sample")
    template = template_of(Model.of(answers.facts["model"]), token)
    refine = None if token is None else template.id_of(token)
    chosen: Any = grader or grader_of(asked.settings["task"])
    _say(steps.grade(out, answers, asked, chosen, template.tokenizer, console, refine))


@app.command()
@_guarded
def pairs(
    out: Out,
    problems: Annotated[Path, typer.Option(help="Folder of problems.")],
    stage: Annotated[str, typer.Option(help="gold answers, own right ones, or verify and correct of ReVISE.")],
    grades: Annotated[Path | None, typer.Option(help="Folder of grades, of all stages but gold.")] = None,
    model: ModelName = "smollm2-135m",
    chat_template: ChatTemplate = None,
    token: Annotated[str, typer.Option(help="The refine token.")] = "<|refine|>",
    balanced: Annotated[bool, typer.Option("--balanced", help="As many right rows as wrong ones.")] = False,
    most_rows: Annotated[int | None, typer.Option(help="At most; all by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of which ones are taken.")] = 0,
) -> None:
    """Step: make rows to train on, of problems and of graded samples."""
    from trainer import steps
    from trainer.artefacts import Artefact
    from trainer.models import Model, template_of
    from trainer.recipes import revise, rft, sft

    if stage not in ("gold", "own", "verify", "correct"):
        raise SettingsError(f"--stage {stage}: it is gold, own, verify or correct")
    if (grades is None) != (stage == "gold"):
        raise SettingsError(f"--stage {stage} takes {'no ' if stage == 'gold' else ''}--grades")
    base, asked = Model.of(model, chat_template), Artefact.read(problems, "problems")
    graded = None if grades is None else Artefact.read(grades, "grade")
    if graded is not None and Model.of(graded.facts["model"]).path != base.path:
        raise SettingsError(f"{grades} is of samples of {graded.facts['model']}: give it as --model")
    refining = stage in ("verify", "correct")
    template = template_of(base, token if refining else None)
    if graded is not None and stage == "correct" and graded.settings["refine"] != template.id_of(token):
        raise SettingsError(f"{grades} does not part attempts at {token}: grade with --token")

    def rows() -> Any:
        if graded is None:
            return sft.gold(template, asked)
        if stage == "own":
            return rft.own_right(template, graded)
        found = revise.pairs(template, template.id_of(token), graded, asked, stage)
        return revise.chosen(found, balanced=balanced, most_rows=most_rows, seed=seed)

    parents = {**base.parents, "problems": asked, **({} if graded is None else {"grades": graded})}
    made = {**base.settings, "stage": stage, "token": token if refining else None}
    made |= {"balanced": balanced, "most_rows": most_rows, "seed": seed} if refining else {}
    _say(steps.write_rows(out, made, parents, rows))


@app.command()
@_guarded
def fit(
    out: Out,
    rows: Annotated[Path, typer.Option(help="Folder of rows.")],
    model: ModelName = "smollm2-135m",
    chat_template: ChatTemplate = None,
    token: Annotated[str | None, typer.Option(help="A token that it is to have; by default that of the rows.")] = None,
    config: Config = None,
    changes: Changes = None,
    listed: Annotated[bool, _listed(lambda: import_module("trainer.settings").FitSettings)] = False,
) -> None:
    """Step: fit a checkpoint or an adapter to rows."""
    from trainer import steps
    from trainer.artefacts import Artefact
    from trainer.models import Model
    from trainer.settings import FitSettings

    settings = settings_of(FitSettings, config, changes or [])
    given = Artefact.read(rows, "rows")
    base, taught = Model.of(model, chat_template), token or given.settings.get("token")
    made = steps.fit(out, base, given, settings, console, taught)
    console.print(f"[green]serve it:[/green] {made.command}", highlight=False, soft_wrap=True)


@app.command()
@_guarded
def evaluate(
    out: Out,
    problems: Annotated[Path, typer.Option(help="Folder of problems that were held out.")],
    model: ModelName = "smollm2-135m",
    grader: Annotated[str | None, typer.Option(help="math, exact or gym; by default the task's.")] = None,
    config: Config = None,
    changes: Changes = None,
    listed: Annotated[bool, _listed(lambda: _served("trainer.evaluate", "EvaluateSettings"))] = False,
) -> None:
    """Step: ask a served checkpoint, by the strategy revise."""
    from trainer.artefacts import Artefact
    from trainer.evaluate import evaluate as run
    from trainer.grading import grader_of
    from trainer.models import Model

    settings = settings_of(_served("trainer.evaluate", "EvaluateSettings"), config, changes or [])
    asked = Artefact.read(problems, "problems")
    chosen: Any = grader or grader_of(asked.settings["task"])
    _say(run(out, Model.of(model), asked, settings.of_step, chosen, settings.serve, console))


@app.command()
@_guarded
def report(
    out: Annotated[Path, typer.Argument(help="Folder of the report.")],
    evaluations: Annotated[
        list[str], typer.Argument(help="NAME=FOLDER of evaluations; the last is compared with all others.")
    ],
    name: Annotated[str, typer.Option(help="Of the report's files.")] = "training",
    trained: Annotated[
        list[str] | None, typer.Option(help="NAME=TOKENS that it was trained on, behind what all begin with.")
    ] = None,
    always: Annotated[
        Path | None, typer.Option(help="Folder of the last's evaluation with threshold = 1: all was thought over.")
    ] = None,
) -> None:
    """Step: compare evaluated checkpoints, in Markdown with plots."""
    from trainer.artefacts import Artefact
    from trainer.report import write_report

    found = {label: Artefact.read(Path(folder), "evaluate") for label, folder in _named(evaluations, "FOLDER")}
    tokens: dict[str, int] = {}
    for label, count in _named(trained or (), "TOKENS"):
        if not count.isdecimal():
            raise SettingsError(f"--trained {label}={count}: a number of tokens is wanted")
        tokens[label] = int(count)
    if unknown := tokens.keys() - found.keys():
        raise SettingsError(f"--trained {min(unknown)}: there is no such evaluation")
    over = None if always is None else Artefact.read(always, "evaluate")
    path = write_report(out, name, found, tokens, over)
    console.print(f"[green]report:[/green] {path}", highlight=False, soft_wrap=True)


def _named(given: Sequence[str], what: str) -> Iterator[tuple[str, str]]:
    for one in given:
        label, equals, value = one.partition("=")
        if not equals:
            raise SettingsError(f"{one}: NAME={what} is wanted")
        yield label, value


def _served(module: str, name: str) -> Any:
    """The settings of a step that asks a server, with how it is served."""
    from trainer.serving import ServeSettings

    kind = getattr(import_module(module), name)

    class Served(kind):  # type: ignore[misc, valid-type]
        serve: ServeSettings = ServeSettings()

        @property
        def of_step(self) -> Any:
            return kind(**self.model_dump(exclude={"serve"}))

    return Served


def _say(made: Any) -> None:
    facts = ", ".join(f"{name} {value}" for name, value in made.facts.items())
    console.print(f"[green]made:[/green] {made.folder} ({facts})", highlight=False, soft_wrap=True)
