"""The steps that recipes are made of. Each makes one artefact from others, and goes on where a killed one stopped."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer import device
from trainer.artefacts import Artefact, ArtefactError, write_whole
from trainer.card import write_card
from trainer.children import bound
from trainer.grading import Grader, check, graded
from trainer.models import Model
from trainer.problems import problems_of
from trainer.sampling import SAMPLES
from trainer.serving import progress_bar

GRADES, ROWS = "grades.jsonl", "rows.jsonl"
FSDP = Path(__file__).parent / "fsdp.yaml"


def grade(
    folder: Path,
    samples: Artefact,
    asked_of: Artefact,
    grader: Grader,
    tokenizer: Any,
    console: Console,
    refine: int | None = None,
) -> Artefact:
    """Which samples are right, attempt by attempt where the refine token parts them."""
    parents = {"samples": samples, "problems": asked_of}
    artefact = Artefact.open(folder, "grade", {"grader": grader, "refine": refine}, parents)
    if artefact.complete:
        return artefact
    known = {problem.id: problem for problem in problems_of(asked_of)}
    check(list(known.values()), grader, asked_of.settings["task"])
    log = artefact.log(GRADES)
    there = {line["problem"] for line in log.begin()}
    lines = [line for line in samples.log(SAMPLES).read() if line["problem"] not in there]
    texts = []
    for line in lines:
        for one in line["samples"]:
            one["attempts"] = parted(one.pop("token_ids"), refine)
            texts += [
                (tokenizer.decode(ids, skip_special_tokens=True), known[line["problem"]]) for ids in one["attempts"]
            ]
    verdicts = graded(texts, grader, asked_of.settings["task"])
    with progress_bar(console) as progress:
        for line in progress.track(lines, description="grading"):
            for one in line["samples"]:
                one["right"] = [next(verdicts) for _ in one["attempts"]]
            log.add(line)
    firsts = [one["right"][0] for line in log.read() for one in line["samples"]]
    return artefact.finish(
        samples=len(firsts), first_right=sum(firsts) / max(len(firsts), 1), model=samples.facts["model"]
    )


def parted(token_ids: Sequence[int], refine: int | None) -> list[list[int]]:
    """What stands between refine tokens."""
    parts: list[list[int]] = [[]]
    for token in token_ids:
        if token == refine:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def write_rows(
    folder: Path,
    settings: Mapping[str, Any],
    parents: Mapping[str, Artefact],
    rows: Callable[[], Iterable[Any]],
) -> Artefact:
    """Rows to train on, made by a recipe of artefacts."""
    artefact = Artefact.open(folder, "rows", settings, parents)
    if artefact.complete:
        return artefact
    found = list(rows())
    if not found:
        raise ArtefactError(f"{folder}: there is nothing to train on")
    counts: dict[str, int] = {}
    for row in found:
        counts[row.kind] = counts.get(row.kind, 0) + 1
    artefact.log(ROWS).write(row.line() for row in found)
    return artefact.finish(rows=len(found), kinds=counts, tokens=sum(row.length for row in found))


def fit(folder: Path, model: Model, rows: Artefact, settings: Any, console: Console, token: str | None = None) -> Model:
    """A checkpoint, or an adapter, of rows; in processes of its own, and of accelerate's where there are several.

    Args:
        folder: of the artefact.
        model: what to begin with.
        rows: of one sort.
        settings: FitSettings.
        console: told where it is.
        token: that the model is to say: a new one, or one that it has no use for so far.

    Raises:
        ArtefactError: the training failed; what it said stands before.
    """
    parents = {**model.parents, "rows": rows}
    made = {**model.settings, "fit": settings.model_dump(exclude={"save_minutes"}), "token": token}
    artefact = Artefact.open(folder, "fit", made, parents)
    if not artefact.complete:
        inputs = {
            "model": model.path,
            "chat_template": None if model.chat_template is None else str(model.chat_template),
            "rows": str((rows.folder / ROWS).absolute()),
            "token": token,
            "fit": settings.model_dump(),
        }
        write_whole(folder / "inputs.json", json.dumps(inputs))
        command = [sys.executable, "-m", *_launcher(settings.processes), "trainer.fitting", str(folder)]
        status = subprocess.run(
            bound(command), env=_environment(settings.processes, os.environ), check=False
        ).returncode
        if status != 0:
            raise ArtefactError(f"{folder}: the training ended with status {status}; the same command goes on with it")
        facts = {"rows": rows.facts["rows"], "tokens": rows.facts["tokens"], "device": device.name()}
        if settings.autocast:
            facts["products"] = "bfloat16" if device.multiplies_bfloat16() else "float32"
        write_card(artefact, Model.fitted(artefact).path, model.name, rows, facts)
        artefact.finish(**facts)
        # The optimizer's state is thrice the weights, and nothing goes on with it.
        shutil.rmtree(folder / "steps", ignore_errors=True)
    console.print(f"[green]fitted:[/green] {Model.fitted(artefact).path}", highlight=False, soft_wrap=True)
    return Model.fitted(artefact)


def _environment(processes: int, given: Mapping[str, str]) -> dict[str, str]:
    """Of a training. One process sees one GPU: transformers would have it use all, each for a batch as large."""
    if processes > 1:
        return dict(given)
    first = given.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    return {**given, "CUDA_VISIBLE_DEVICES": first}


def _launcher(processes: int) -> list[str]:
    """What starts so many processes of a module, which follows."""
    if processes == 1:
        return []
    import torch

    if torch.cuda.is_available():
        return ["accelerate.commands.launch", "--config_file", str(FSDP), "--num_processes", str(processes), "-m"]
    # accelerate shards nothing on a CPU: each process has all weights, and a share of the rows.
    return ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
