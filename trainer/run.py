"""A run of a recipe: one folder with an artefact for each step, in the order in which they are made."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from trainer import steps
from trainer.artefacts import Artefact
from trainer.evaluate import EvaluateSettings, evaluate
from trainer.grading import Grader, grader_of
from trainer.models import Model, template_of
from trainer.problems import draw_problems
from trainer.sampling import SampleSettings, sample
from trainer.serving import ServeSettings
from trainer.settings import FitSettings
from trainer.tasks import TaskError

if TYPE_CHECKING:
    from trainer.rows import Row, Template


Step = TypeVar("Step", SampleSettings, EvaluateSettings, FitSettings)


class RecipeSettings(BaseModel):
    """What every recipe is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("smollm2-135m", description="Base model, as in redraft serve --model.")
    chat_template: Path | None = Field(None, description="Jinja file, of a base model that has none.")
    task: str = Field(..., description="gym:NAME, file:PATH or hub:ID[:SPLIT], each with [:KEY=VALUE,...].")
    held_out_task: str | None = Field(None, description="Of the held-out problems, if not the same.")
    held_out: int = Field(1000, ge=1, description="Problems that no step trains on.")
    grader: Grader | None = Field(None, description="math, exact or gym; by default the task's.")
    token: str = Field("<|refine|>", description="The refine token; one that the tokenizer has stays as it is.")
    seed: int = Field(0, description="Of problems; the seeds of samples and trainings are added to it.")
    serve: ServeSettings = Field(ServeSettings(), description="Of sampling and evaluating.")


class Run:
    """The steps of one recipe, in its folder."""

    def __init__(self, folder: Path, settings: RecipeSettings, console: Console) -> None:
        self.folder = folder
        self.settings = settings
        self.console = console
        self.base = Model.of(settings.model, settings.chat_template)
        self._drawn: dict[str, Artefact] = {}

    @property
    def grader(self) -> Grader:
        """Of the task."""
        return self.settings.grader or grader_of(self.settings.task)

    @cached_property
    def held_out(self) -> Artefact:
        """Problems to evaluate on."""
        s = self.settings
        task = s.held_out_task or s.task
        return draw_problems(
            self._step("held-out"), task, s.held_out, s.seed + 1_000_003, grader=s.grader or grader_of(task)
        )

    def problems(self, name: str, count: int, seed: int, *, at_most: bool = False) -> Artefact:
        """So many problems to learn from, or at most: none is held out, and none is another step's."""
        if not self._drawn:
            self._drawn["held-out"] = self.held_out
        folder, s = self._step(name), self.settings
        drawn = draw_problems(folder, s.task, count, s.seed + seed, dict(self._drawn), self.grader)
        if (found := drawn.facts["problems"]) < count and not at_most:
            others = sum(other.facts["problems"] for other in self._drawn.values())
            raise TaskError(
                f"{name}: {s.task} has {found} problems beside the {others} of {', '.join(self._drawn)}, and {count}"
                " are wanted: lower held_out or the numbers of problems, in another folder"
            )
        self._drawn[name] = drawn
        return drawn

    def sample(self, name: str, model: Model, problems: Artefact, settings: SampleSettings) -> Artefact:
        """Answers of a model."""
        settings = self._seeded(settings)
        return sample(self._step(name), model, problems, settings, self.settings.serve, self.console)

    def grade(self, name: str, samples: Artefact, problems: Artefact, refine: int | None = None) -> Artefact:
        """Which of them are right."""
        tokenizer = self.template.tokenizer
        return steps.grade(self._step(name), samples, problems, self.grader, tokenizer, self.console, refine)

    def rows(
        self,
        name: str,
        parents: Mapping[str, Artefact],
        rows: Callable[[], Iterable["Row"]],
        **settings: Any,
    ) -> Artefact:
        """What to train on."""
        made = {**self.base.settings, **settings}
        return steps.write_rows(self._step(name), made, parents, rows)

    def fit(self, name: str, model: Model, rows: Artefact, settings: FitSettings, token: str | None = None) -> Model:
        """A checkpoint of rows."""
        return steps.fit(self._step(name), model, rows, self._seeded(settings), self.console, token)

    def evaluate(self, name: str, model: Model, settings: EvaluateSettings) -> Artefact:
        """What a checkpoint makes of the problems that were held out."""
        s, asked_of = self.settings, self.held_out
        grader = s.grader or grader_of(asked_of.settings["task"])
        return evaluate(self._step(name), model, asked_of, self._seeded(settings), grader, s.serve, self.console)

    def made(self, name: str) -> Artefact:
        """What an earlier step made."""
        return Artefact.read(self.folder / name)

    @cached_property
    def template(self) -> "Template":
        """How questions and answers are written."""
        return template_of(self.base, self.settings.token)

    @property
    def refine(self) -> int:
        """The id of the refine token."""
        return self.template.id_of(self.settings.token)

    def _seeded(self, settings: Step) -> Step:
        return settings.model_copy(update={"seed": self.settings.seed + settings.seed})

    def _step(self, name: str) -> Path:
        folder = self.folder / name
        done = (folder / "manifest.json").is_file() and Artefact.read(folder).complete
        self.console.print(f"[dim]{'there' if done else 'now'}:[/dim] {name}", highlight=False)
        return folder
