"""Problems of a task, in a file."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from trainer.artefacts import Artefact, digest_of
from trainer.grading import Grader, check
from trainer.tasks import Problem, TaskError, path_of, problems

PROBLEMS = "problems.jsonl"


def draw_problems(
    folder: Path,
    task: str,
    count: int,
    seed: int,
    without: Mapping[str, Artefact] = {},
    grader: Grader | None = None,
) -> Artefact:
    """Problems of a task, none of them twice, and none that others have.

    Args:
        folder: of the artefact.
        task: by name, as `trainer.tasks` has them.
        count: at most.
        seed: of what is drawn.
        without: the others, by name.
        grader: that must take the problems' own answers for right.

    Raises:
        TaskError: there is no such task, no problem is left, or the grader cannot tell.
    """
    made = {"task": task, "count": count, "seed": seed, **source_of(task)}
    artefact = Artefact.open(folder, "problems", made, without)
    if artefact.complete:
        return artefact
    seen = {problem.question for other in without.values() for problem in problems_of(other)}
    others = len(seen)
    found: list[Problem] = []
    # More than are wanted: small tasks ask the same thing again and again.
    for problem in problems(task, count + len(seen) + count // 2, seed):
        if problem.question not in seen and len(found) < count:
            seen.add(problem.question)
            found.append(problem)
    if not found:
        raise TaskError(f"{task} has no problem beside the {others} that {', '.join(without) or 'nothing'} took")
    if grader is not None:
        check(found, grader, task)
    artefact.log(PROBLEMS).write(iter([asdict(problem) for problem in found]))
    return artefact.finish(problems=len(found))


def source_of(task: str) -> dict[str, str]:
    """What a task is read from, where that is a file of one's own."""
    path = path_of(task)
    return {} if path is None or not path.is_file() else {"source": digest_of(path)}


def problems_of(artefact: Artefact) -> list[Problem]:
    """What `draw_problems` drew."""
    return [Problem(**line) for line in artefact.log(PROBLEMS).read()]
