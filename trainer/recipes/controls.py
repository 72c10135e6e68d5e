"""What ReVISE is compared with: the same number of tokens spent on gold answers, and on own right ones. Then a report.

All begin where its stages began, with the SFT checkpoint, and go on with the settings of SFT, rather than with the
lower learning rate of the stages: what one would do with more answers. Gold ones are to fresh problems; own ones are
the right ones among the samples that both stages were made of, again and again. The revised one is asked a second time,
to think again at every problem, whatever it makes of its attempt.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, cycle

from pydantic import Field

from trainer.evaluate import EvaluateSettings
from trainer.models import Model
from trainer.recipes import revise, rft, sft
from trainer.recipes.revise import ReVISE
from trainer.report import write_report
from trainer.rows import Row
from trainer.run import Run


class Controls(ReVISE):
    """Those of the ReVISE run in the same folder, and of its evaluation."""

    evaluation: EvaluateSettings = Field(EvaluateSettings(), description="Of all checkpoints.")


def run(run: Run, settings: Controls) -> Model:
    """Trains the controls, evaluates all, and writes report.md; returns ReVISE's checkpoint."""
    revised = revise.run(run, settings)
    first, verified = (Model.fitted(run.made(name)) for name in ("sft/fit", "verify/fit"))
    stages = {"verify": settings.verify, "correct": settings.correct}
    spent = {name: round(run.made(f"{name}/rows").facts["tokens"] * fit.epochs) for name, fit in stages.items()}
    tokens = sum(spent.values())
    fit = settings.sft.model_copy(update={"epochs": 1.0})
    problems = run.problems("controls/problems", settings.problems + 2 * settings.stage_problems, seed=4, at_most=True)
    grades = {stage: run.made(f"{stage}/grades") for stage in stages}

    def gold_rows() -> Iterable[Row]:
        return within(sft.gold(run.template, problems), tokens)

    def own_rows() -> Iterable[Row]:
        return within(chain.from_iterable(rft.own_right(run.template, one) for one in grades.values()), tokens)

    gold = run.rows("controls/gold/rows", {"problems": problems}, gold_rows, tokens=tokens)
    own = run.rows("controls/rft/rows", grades, own_rows, tokens=tokens)
    checkpoints = {
        "SFT": (first, 0),
        "gold answers": (run.fit("controls/gold/fit", first, gold, fit), gold.facts["tokens"]),
        "own right answers": (run.fit("controls/rft/fit", first, own, fit), own.facts["tokens"]),
        "ReVISE, stage verify": (verified, spent["verify"]),
        "ReVISE": (revised, tokens),
    }
    way = settings.evaluation.model_copy(update={"token": settings.token})
    found = {
        label: run.evaluate(f"evaluations/{label.replace(', ', '-').replace(' ', '-').lower()}", model, way)
        for label, (model, _) in checkpoints.items()
    }
    # The revised one once more, with another attempt at every problem: what is its choice worth?
    over = way.model_copy(update={"threshold": 1.0, "samples": 0})
    always = run.evaluate("evaluations/revise-always-again", revised, over)
    trained = {label: count for label, (_, count) in checkpoints.items()}
    path = write_report(run.folder / "report", "revise", found, trained, always)
    run.console.print(f"[green]report:[/green] {path}", highlight=False, soft_wrap=True)
    return revised


def within(rows: Iterable[Row], tokens: int) -> Iterator[Row]:
    """The first rows, and all of them again if they are too few, up to so many tokens."""
    for row in cycle(rows):
        tokens -= row.length
        if tokens < 0:
            return
        yield row
