"""What a run tells its steps."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trainer.evaluate import EvaluateSettings
from trainer.models import Model
from trainer.run import RecipeSettings, Run
from trainer.sampling import SampleSettings
from trainer.settings import FitSettings
from trainer.tasks import TaskError


def run_of(folder: Path, rows: int, tiny_model: Path, **settings: Any) -> Run:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}?", "answer": str(i)}) + "\n" for i in range(rows)))
    made = RecipeSettings(model=str(tiny_model), task=f"file:{path}", **settings)
    return Run(folder / "run", made, Console(quiet=True))


def test_a_task_that_has_too_few_problems(tmp_path: Path, tiny_model: Path) -> None:
    run = run_of(tmp_path, 10, tiny_model, held_out=4)
    assert run.problems("first", 4, 1).facts["problems"] == 4
    with pytest.raises(TaskError, match=r"second: .* has 2 problems beside the 8 of held-out, first, and 3 are wanted"):
        run.problems("second", 3, 2)
    assert run.problems("third", 3, 2, at_most=True).facts["problems"] == 2


def test_another_seed_is_another_one_of_every_step(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, 10, tiny_model, held_out=4, seed=7)
    seeds: list[int] = []

    def step(*arguments: Any) -> None:
        kinds = (SampleSettings, EvaluateSettings, FitSettings)
        seeds.extend(one.seed for one in arguments if isinstance(one, kinds))

    monkeypatch.setattr("trainer.run.sample", step)
    monkeypatch.setattr("trainer.run.evaluate", step)
    monkeypatch.setattr("trainer.run.steps.fit", step)
    model = Model.of(str(tiny_model))
    run.sample("samples", model, run.held_out, SampleSettings())
    run.evaluate("evaluation", model, EvaluateSettings(seed=10))
    run.fit("fit", model, run.held_out, FitSettings(seed=100))
    assert seeds == [7, 17, 107]
