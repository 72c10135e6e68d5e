"""Problems of a task, in a file."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from trainer.artefacts import Artefact, ArtefactError, digest_of
from trainer.grading import Grader, check
from trainer.tasks import Problem, TaskError, path_of, problems

PROBLEMS = "problems.jsonl"
MORE = (2, 8, 32)
"""Times as many problems as are wanted, which are drawn until enough of them are different."""


def draw_problems(
    folder: Path,
    task: str,
    count: int,
    seed: int,
    without: Mapping[str, Artefact] = {},
    grader: Grader | None = None,
) -> Artefact:
    """Problems of a task, none of them twice, in whichever words, and none that others have.

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
    others = {problem.key for other in without.values() for problem in problems_of(other)}
    found: list[Problem] = []
    # Small tasks ask the same thing again and again.
    for times in MORE:
        wanted = (count + len(others)) * times
        drawn = problems(task, wanted, seed)
        by_key = {problem.key: problem for problem in reversed(drawn) if problem.key not in others}
        found = [problem for problem in drawn if by_key.get(problem.key) is problem][:count]
        if len(found) == count or len(drawn) < wanted:
            break
    if not found:
        raise TaskError(f"{task} has no problem beside the {len(others)} that {', '.join(without) or 'nothing'} took")
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


def check_held_out(asked_of: Artefact, model: Artefact | None) -> list[str]:
    """That a model has learnt from no problem that it is to be measured on.

    Returns:
        What it was made of and is not there any more, or was changed, so that nobody can tell.

    Raises:
        ArtefactError: it has.
    """
    lost: list[str] = []
    keys = {problem.key for problem in problems_of(asked_of)}
    waiting, seen = [] if model is None else [model], set()
    while waiting:
        one = waiting.pop()
        if one.manifest["step"] == "problems":
            if known := keys & {problem.key for problem in problems_of(one)}:
                raise ArtefactError(
                    f"{len(known)} of {len(keys)} problems of {asked_of.folder} are among those that the model has"
                    f" learnt from, in {one.folder.resolve()}: draw others, with --without"
                )
            continue  # Its parents are problems that are not among them.
        for name in one.manifest["parents"]:
            parent = one.parent(name)
            if parent is None or parent.digest != one.manifest["parents"][name]:
                lost.append(f"{name} of {one.folder}")
            elif parent.digest not in seen:
                seen.add(parent.digest)
                waiting.append(parent)
    return lost
