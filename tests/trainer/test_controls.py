"""What ReVISE is compared with: who is trained on what, from where, and who is evaluated."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from trainer.artefacts import Artefact
from trainer.evaluate import OUTCOMES
from trainer.models import Model
from trainer.recipes import controls, revise, rft, sft
from trainer.recipes.controls import Controls, within
from trainer.rows import Row

TOKENS = {"verify": 30, "correct": 50}


def rows(*lengths: int) -> Iterator[Row]:
    for length in lengths:
        yield Row((1,) * (length - 1), (2,))


@pytest.mark.parametrize(
    ("lengths", "tokens", "expected"),
    [((4, 4, 4), 9, [4, 4]), ((4, 5), 20, [4, 5, 4, 5]), ((4,), 4, [4]), ((4,), 3, []), ((), 10, [])],
)
def test_rows_within_so_many_tokens(lengths: tuple[int, ...], tokens: int, expected: list[int]) -> None:
    assert [row.length for row in within(rows(*lengths), tokens)] == expected


class FakeRun:
    """Steps that make nothing, and remember what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.console = Console(quiet=True)
        self.template = None
        self.fitted: dict[str, tuple[Any, Any, Any]] = {}
        self.evaluated: dict[str, Any] = {}

    def made(self, name: str) -> Any:
        stage = name.partition("/")[0]
        return SimpleNamespace(name=name, folder=name, facts={"tokens": TOKENS.get(stage, 0)})

    def problems(self, name: str, count: int, seed: int, *, at_most: bool = False) -> Any:
        return name

    def rows(self, name: str, parents: Mapping[str, Any], rows: Callable[[], Iterable[Row]], **settings: Any) -> Any:
        found = list(rows())
        facts = {"tokens": sum(row.length for row in found)}
        return SimpleNamespace(name=name, parents=parents, facts=facts)

    def fit(self, name: str, model: Any, rows: Any, settings: Any, token: str | None = None) -> Any:
        self.fitted[name] = (model, rows, settings)
        return name

    def evaluate(self, name: str, model: Any, settings: Any) -> Artefact:
        self.evaluated[name] = (model, settings)
        artefact = Artefact.open(self.folder / name, "evaluate", {"samples": 1})
        branch = [{"text": "4", "confidence": 0.5, "refine": False, "right": True}]
        line = {
            "problem": "1",
            "greedy": {"branches": [branch], "tokens": 2},
            "sampled": {"branches": [branch], "tokens": 2},
        }
        artefact.log(OUTCOMES).write(iter([line]))
        return artefact.finish()


def test_all_begin_alike_and_learn_as_many_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = FakeRun(tmp_path)
    monkeypatch.setattr(revise, "run", lambda *_: "revised")
    monkeypatch.setattr(Model, "fitted", lambda made: made.name)
    monkeypatch.setattr(sft, "gold", lambda template, problems: rows(*[5] * 100))
    monkeypatch.setattr(rft, "own_right", lambda template, grades: rows(3, 4))
    settings = Controls.model_validate(
        {
            "task": "gym:gcd",
            "token": "<x>",
            "sft": {"epochs": 3, "learning_rate": 0.5, "batch": 16},
            "verify": {"epochs": 2},
            "evaluation": {"samples": 2},
        }
    )
    made: Any = controls.run(run, settings)
    assert made == "revised"
    # 30 tokens twice, and 50.
    gold, own = run.fitted["controls/gold/fit"], run.fitted["controls/rft/fit"]
    assert (gold[1].facts["tokens"], own[1].facts["tokens"]) == (110, 108)
    for model, _, fit in (gold, own):
        assert (model, fit.epochs, fit.learning_rate) == ("sft/fit", 1.0, 0.5)
    assert [one.name for one in own[1].parents.values()] == ["verify/grades", "correct/grades"]
    asked = {model for model, _ in run.evaluated.values()}
    assert asked == {"sft/fit", "verify/fit", "controls/gold/fit", "controls/rft/fit", "revised"}
    over, always = run.evaluated.pop("evaluations/revise-always-again")
    assert (over, always.token, always.threshold, always.samples) == ("revised", "<x>", 1, 0)
    assert all((w.token, w.threshold, w.samples) == ("<x>", None, 2) for _, w in run.evaluated.values())
    assert len(run.evaluated) == 5
    text = (tmp_path / "report" / "revise.md").read_text()
    for label, trained in (("SFT", 0), ("gold answers", 110), ("ReVISE, stage verify", 60), ("ReVISE", 110)):
        assert f"| {label} | {trained:,} | 1.000" in text
    assert "## ReVISE against the others" in text
