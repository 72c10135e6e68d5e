"""Supervised fine-tuning: the likelihood of gold answers."""

from collections.abc import Iterable

from pydantic import Field

from trainer.artefacts import Artefact
from trainer.models import Model
from trainer.problems import problems_of
from trainer.rows import Row, Template
from trainer.run import RecipeSettings, Run
from trainer.settings import FitSettings


class SFT(RecipeSettings):
    """Settings; defaults of the fit are those with which ReVISE begins (arXiv 2502.14565)."""

    problems: int = Field(2000, ge=1, description="To learn from.")
    sft: FitSettings = Field(FitSettings(learning_rate=1e-4, epochs=3, batch=32), description="Of the fit.")


def run(run: Run, settings: SFT, token: str | None = None) -> Model:
    """A checkpoint that answers as the gold answers do, and has a token that is to be learnt later, if one is given."""
    problems = run.problems("sft/problems", settings.problems, seed=1)
    rows = run.rows("sft/rows", {"problems": problems}, lambda: gold(run.template, problems))
    return run.fit("sft/fit", run.base, rows, settings.sft, token)


def gold(template: Template, problems: Artefact) -> Iterable[Row]:
    """Problems with their worked answers."""
    for problem in problems_of(problems):
        prompt = template.prompt(problem.question)
        yield Row(prompt, template.answer(problem.question, problem.worked), kind="gold")
