"""ReVISE (arXiv 2502.14565): SFT, then two stages of preference that teach a token, refine.

    stage       an answer y that is right          an answer y that is wrong
    verify      y end  >  y refine end             y refine end       >  y end
    correct     y end  >  y refine end             y refine gold end  >  y end

Each stage samples from the model before it. The loss is DPO, plus a share of the chosen row's likelihood, which leaves
out what stands before refine, so that a wrong answer is never imitated: it is a part of the prompt. A right one is
imitated whole. In stage correct a sample may refine already: it is cut behind its first wrong attempt.

Beyond the paper: rows can be balanced, and controls are trained on as many tokens.
"""

import random
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from trainer.artefacts import Artefact
from trainer.models import Model
from trainer.problems import problems_of
from trainer.recipes import sft
from trainer.recipes.sft import SFT
from trainer.rows import Row, Template
from trainer.run import Run
from trainer.sampling import SampleSettings
from trainer.settings import FitSettings
from trainer.steps import GRADES

STAGES = {"verify": 2, "correct": 3}
"""By name: the seed of a stage."""


class ReVISE(SFT):
    """Settings; defaults are the paper's."""

    stage_problems: int = Field(2000, ge=1, description="To sample answers to, fresh ones for each stage.")
    sample: SampleSettings = Field(SampleSettings(), description="Of the answers.")
    verify: FitSettings = Field(FitSettings(), description="Of the first stage.")
    correct: FitSettings = Field(FitSettings(), description="Of the second stage.")
    balanced: bool = Field(False, description="As many right rows as wrong ones. The paper takes all.")
    most_rows: int | None = Field(None, ge=2, description="Of a stage; all by default.")


def run(run: Run, settings: ReVISE) -> Model:
    """A checkpoint that verifies its answers and may think again."""
    for name, seed in STAGES.items():  # A task that has too few is to say so before anything is trained.
        run.problems(f"{name}/problems", settings.stage_problems, seed)
    # What is compared with it is asked in the same way, and so has the token too.
    first = sft.run(run, settings, settings.token)
    verify = stage(run, settings, "verify", first, settings.verify)
    return stage(run, settings, "correct", verify, settings.correct)


def stage(run: Run, settings: ReVISE, name: str, model: Model, fit: FitSettings) -> Model:
    """One of the two."""
    problems = run.made(f"{name}/problems")
    samples = run.sample(f"{name}/samples", model, problems, settings.sample)
    grades = run.grade(f"{name}/grades", samples, problems, run.refine)
    parents = {"grades": grades, "problems": problems}

    def made() -> Iterable[Row]:
        return chosen(pairs(run.template, run.refine, grades, problems, name), **kept)

    kept: dict[str, Any] = {"balanced": settings.balanced, "most_rows": settings.most_rows, "seed": settings.seed}
    rows = run.rows(f"{name}/rows", parents, made, stage=name, token=settings.token, **kept)
    return run.fit(f"{name}/fit", model, rows, fit, run.settings.token)


def pairs(template: Template, token: int, grades: Artefact, problems: Artefact, stage: str) -> Iterator[Row]:
    """Rows of a stage, of all samples that came to their end.

    Args:
        template: of the model.
        token: the refine token.
        grades: of the samples.
        problems: of which they are.
        stage: verify or correct.
    """
    end, refine = (template.end,), (token,)
    gold = {one.id: template.answer(one.question, one.worked)[:-1] for one in problems_of(problems)}
    for line in grades.log(GRADES).read():
        prompt = tuple(line["prompt"])
        for sample in line["samples"]:
            if sample["finish_reason"] != "stop":
                continue
            attempts = [template.without_end(attempt) for attempt in sample["attempts"]]
            wrong = next((i for i, right in enumerate(sample["right"]) if not right), None)
            if wrong is None:
                yield Row(prompt, attempts[0] + end, attempts[0] + refine + end, kind="right")
                continue
            y = attempts[0]
            for attempt in attempts[1 : wrong + 1]:
                y += refine + attempt
            better = gold[line["problem"]] if stage == "correct" else ()
            yield Row(prompt + y, refine + better + end, end, kind="wrong")


def chosen(rows: Iterable[Row], balanced: bool, most_rows: int | None, seed: int) -> Iterable[Row]:
    """No row twice; balanced and cut as the settings say."""
    by_kind: dict[str, list[Row]] = {"right": [], "wrong": []}
    for row in dict.fromkeys(rows):
        by_kind[row.kind].append(row)
    draw = random.Random(seed)
    for kind in by_kind.values():
        draw.shuffle(kind)
    most = most_rows or sum(map(len, by_kind.values()))
    if balanced:
        each = min(most // 2, *map(len, by_kind.values()))
        return by_kind["right"][:each] + by_kind["wrong"][:each]
    together = by_kind["right"] + by_kind["wrong"]
    draw.shuffle(together)
    return together[:most]
