"""Rejection sampling: the likelihood of a model's own answers that are right."""

from collections.abc import Iterable

from pydantic import Field

from trainer.artefacts import Artefact
from trainer.models import Model
from trainer.recipes import sft
from trainer.recipes.sft import SFT
from trainer.rows import Row, Template
from trainer.run import Run
from trainer.sampling import SampleSettings
from trainer.settings import FitSettings
from trainer.steps import GRADES


class RFT(SFT):
    """Settings: SFT, samples of what it makes, and a second fit to those that are right."""

    sampled_problems: int = Field(2000, ge=1, description="To sample answers to.")
    sample: SampleSettings = Field(SampleSettings(), description="Of the answers.")
    rft: FitSettings = Field(FitSettings(), description="Of the second fit.")


def run(run: Run, settings: RFT) -> Model:
    """A checkpoint that answers as its right answers did."""
    # Where a task has too few, before anything is trained.
    problems = run.problems("rft/problems", settings.sampled_problems, seed=2)
    first = sft.run(run, settings)
    samples = run.sample("rft/samples", first, problems, settings.sample)
    grades = run.grade("rft/grades", samples, problems)
    rows = run.rows("rft/rows", {"grades": grades}, lambda: own_right(run.template, grades))
    return run.fit("rft/fit", first, rows, settings.rft)


def own_right(template: Template, grades: Artefact) -> Iterable[Row]:
    """Different right answers of each problem."""
    for line in grades.log(GRADES).read():
        seen = set()
        for sample in line["samples"]:
            answer = tuple(sample["attempts"][0])
            if sample["finish_reason"] == "stop" and sample["right"] == [True] and answer not in seen:
                seen.add(answer)
                yield Row(tuple(line["prompt"]), (*template.without_end(answer), template.end), kind="right")
