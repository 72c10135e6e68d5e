"""How fast a training is against a plain trl loop: `python -m benchmarks.training`.

Both fit the default model to the same rows with the same settings, SFT and preference pairs as ReVISE makes them, one
after the other in a shuffled order, each in a process of its own. Compared are trained tokens a second, padding left
out, of the training alone, and of the whole process, which loads the model and computes what the reference makes of the
pairs.
"""

import datetime
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import machine, servers
from benchmarks.journal import Journal
from benchmarks.report import (
    PLOT_DPI,
    Aim,
    Finding,
    facts_table,
    findings_text,
    plot_ratios,
    ratio,
    spread,
    table,
    write,
)
from benchmarks.servers import MODEL
from benchmarks.stats import Ratio

RESULTS = Path(__file__).parent / "results"
OURS, THEIRS = "redraft", "plain trl"
MODULES: Mapping[str, str] = {OURS: "trainer.fitting", THEIRS: "benchmarks.plain_trl"}
KINDS = ("SFT", "pairs")
REFINE = 5
"""A token that the default model has no use for."""
console = Console(stderr=True)


@dataclass(frozen=True)
class Settings:
    """What decides the numbers; a journal of other settings is not continued."""

    quick: bool = False
    seed: int = 1
    rounds: int = 4
    rows: int = 256
    task: str = "gym:chain_sum:min_terms=5,max_terms=5,min_digits=2,max_digits=3"
    fit: dict[str, Any] = field(default_factory=lambda: {"batch": 32, "micro_batch": 16, "learning_rate": 1e-5})
    versions: dict[str, str] = field(default_factory=machine.versions)
    code: str = field(default_factory=machine.measured_code)


def redraft(*arguments: str) -> None:
    """A command of redraft."""
    subprocess.run([sys.executable, "-m", "server.cli", *arguments], check=True, capture_output=True)


def rows_of(settings: Settings, folder: Path) -> dict[str, Path]:
    """Files of rows, by kind."""
    problems, gold = folder / "problems", folder / "gold"
    redraft("train", "problems", str(problems), "--task", settings.task, "--count", str(settings.rows))
    redraft("train", "pairs", str(gold), "--problems", str(problems), "--stage", "gold", "--model", MODEL)
    rows = [json.loads(line) for line in (gold / "rows.jsonl").read_text().splitlines()]
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(pair_of(row, i % 2 == 0)) + "\n" for i, row in enumerate(rows)))
    return {"SFT": gold / "rows.jsonl", "pairs": pairs}


def pair_of(row: Mapping[str, Any], right: bool) -> dict[str, Any]:
    """A pair as ReVISE's first stage has it, of an answer taken for right, or for wrong."""
    *answer, end = row["chosen"]
    if right:
        return {"prompt": row["prompt"], "chosen": [*answer, end], "rejected": [*answer, REFINE, end]}
    return {"prompt": [*row["prompt"], *answer], "chosen": [REFINE, end], "rejected": [end]}


def tokens_of(rows: Path) -> int:
    """Of the rows, each sequence counted once."""
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    return sum(
        len(line["prompt"]) * (1 + ("rejected" in line)) + len(line["chosen"] + line.get("rejected", []))
        for line in lines
    )


def trained(arm: str, rows: Path, settings: Settings, inputs: Mapping[str, Any]) -> dict[str, float]:
    """Tokens a second of one training."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inputs.json").write_text(json.dumps({**inputs, "rows": str(rows)}))
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", MODULES[arm], str(folder)], check=True, capture_output=True)
        whole = time.monotonic() - began
        lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
        seconds = next(line["train_runtime"] for line in lines if "train_runtime" in line)
        first = next(line["loss"] for line in lines if "loss" in line)
    tokens = tokens_of(rows)
    return {"training": tokens / seconds, "process": tokens / whole, "first_loss": first}


def measure(settings: Settings, journal: Journal) -> None:
    """What the journal lacks."""
    model = servers.prepared_model()
    inputs = {"model": str(model), "chat_template": None, "token": None, "fit": asdict_of(settings.fit)}
    with tempfile.TemporaryDirectory() as name:
        files = rows_of(settings, Path(name))
        for round_ in range(settings.rounds):
            cells = [(kind, arm) for kind in KINDS for arm in MODULES]
            random.Random(f"{settings.seed} {round_}").shuffle(cells)
            for kind, arm in cells:
                key = f"{round_:02}/{kind}/{arm}"
                if key not in journal.entries:
                    journal.add(key, trained(arm, files[kind], settings, inputs))
                    console.print(key, journal.entries[key])


def asdict_of(fit: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a fit, with those that both arms read."""
    return {
        "epochs": 1,
        "autocast": False,
        "checkpointing": False,
        "beta": 0.1,
        "dpo_weight": 1.0,
        "nll_weight": 0.1,
        **fit,
    }


def ratios(journal: Journal) -> dict[str, Ratio]:
    """Of redraft over plain trl."""
    found = {}
    for kind in KINDS:
        for what in ("training", "process"):
            ours, theirs = (column(journal, kind, arm, what) for arm in (OURS, THEIRS))
            found[f"{kind}, {what}"] = Ratio.of(ours, theirs)
    return found


def column(journal: Journal, kind: str, arm: str, what: str) -> list[float]:
    """Round by round."""
    rounds = sorted({key.split("/")[0] for key in journal.entries})
    return [journal.entries[f"{round_}/{kind}/{arm}"][what] for round_ in rounds]


def report(journal: Journal, folder: Path) -> Path:
    """Writes training.md and training.png; returns the first."""
    found = ratios(journal)
    aims = {name: Aim(1.0, at_least=True) for name in found if name.endswith("training")}
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    plot_ratios(axes, found, aims)
    axes.set_xlabel("tokens a second, redraft over plain trl")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "training.png", dpi=PLOT_DPI)
    findings = [
        Finding(name, found[name].value, aim, (found[name].low, found[name].high)) for name, aim in aims.items()
    ]
    facts = journal.facts
    path = folder / "training.md"
    rows = [
        [
            kind,
            what,
            *(spread(column(journal, kind, arm, what)) for arm in (OURS, THEIRS)),
            ratio(found[f"{kind}, {what}"]),
        ]
        for kind in KINDS
        for what in ("training", "process")
    ]
    losses = [
        [kind, *(f"{column(journal, kind, arm, 'first_loss')[0]:.4f}" for arm in (OURS, THEIRS))] for kind in KINDS
    ]
    write(
        path,
        [
            "# Trainings against a plain trl loop",
            facts_table({"date": facts["date"], "command": f"`{facts['command']}`", **facts["machine"]}),
            findings_text(findings),
            table(["rows", "of", OURS, THEIRS, "ratio"], rows),
            NOTE,
            table(["rows", OURS, THEIRS], losses),
            "![Ratios](training.png)",
        ],
    )
    return path


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test.")] = False,
    rounds: Annotated[int, typer.Option(help="Each of all four trainings.")] = Settings.rounds,
    rows: Annotated[int, typer.Option(help="Of each training.")] = Settings.rows,
    output: Annotated[Path, typer.Option(help="Folder of the report; --quick writes to quick/ in it.")] = RESULTS,
    again: Annotated[bool, typer.Option("--report", help="Only write the report again.")] = False,
) -> None:
    """Measures and writes the report."""
    settings = Settings(quick=quick, rounds=1 if quick else rounds, rows=32 if quick else rows)
    folder = output / "quick" if quick else output
    path = folder / "training.json"
    if again:
        journal = Journal.read(path)
    else:
        journal = Journal.open(path, asdict(settings))
        journal.facts |= {
            "date": datetime.date.today().isoformat(),
            "command": machine.command("benchmarks.training"),
            "machine": machine.describe(),
        }
        measure(settings, journal)
        journal.complete = True
        journal.save()
    console.print(f"[green]report:[/green] {report(journal, folder)}", highlight=False, soft_wrap=True)


NOTE = """Tokens are those of the rows, padding left out; of a pair, its prompt counts twice, for to plain trl it is \
two sequences. Losses of the first step, which is of other rows in each, for ours are grouped by length:"""

if __name__ == "__main__":
    typer.run(main)
