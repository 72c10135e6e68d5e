"""The report: one HTML file that needs nothing else, with all numbers beside it as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmarks.compare import plots, words
from benchmarks.compare.folder import write_whole
from benchmarks.compare.settings import Settings
from benchmarks.compare.summary import Result

PAGE, NUMBERS = "report.html", "report.json"
TEMPLATE = "page.html.jinja"
FEW = 30
"""Items below which bootstrap intervals are not to be trusted."""


def write(folder: Path, settings: Settings, result: Result, sessions: Sequence[Mapping[str, Any]]) -> Path:
    """Writes report.html and report.json; returns the first.

    Args:
        folder: where to.
        settings: of the run.
        result: its numbers.
        sessions: each with its date, command and machine.
    """
    told = {"settings": json.loads(settings.model_dump_json()), "sessions": list(sessions)}
    write_whole(folder / NUMBERS, json.dumps({**told, "result": result.as_json()}, indent=1) + "\n")
    write_whole(folder / PAGE, page(settings, result, sessions))
    return folder / PAGE


def page(settings: Settings, result: Result, sessions: Sequence[Mapping[str, Any]]) -> str:
    """The HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = {"frontier": plots.frontier, "accuracy": plots.accuracy, "seconds": plots.seconds}
    drawn = {name: draw(result) for name, draw in shown.items()}
    return environment.get_template(TEMPLATE).render(
        settings=settings,
        fields=_fields(settings),
        result=result,
        sessions=sessions,
        words=words,
        few=FEW,
        plots={name: None if svg is None else Markup(svg) for name, svg in drawn.items()},
    )


def _fields(settings: Settings) -> dict[str, str]:
    """Settings as a person would write them; arms have a table of their own."""
    values = json.loads(settings.model_dump_json(exclude={"arms"}, exclude_none=True))
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
