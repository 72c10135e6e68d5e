"""What stands beside a checkpoint: how it was made, and how its loss went."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.report import PLOT_DPI, facts_table, write
from trainer.artefacts import Artefact, Log


def write_card(artefact: Artefact, path: str, base: str, rows: Artefact, facts: Mapping[str, Any]) -> Path:
    """README.md and losses.png beside a checkpoint or an adapter; returns the first.

    Args:
        artefact: of the fit.
        path: of what it made.
        base: what it began with.
        rows: what it learnt.
        facts: about it.
    """
    folder = Path(path)
    lines = [line for line in Log(artefact.folder / "losses.jsonl").read() if "loss" in line]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["step"] for line in lines], [line["loss"] for line in lines])
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    figure.savefig(folder / "losses.png", dpi=PLOT_DPI)
    settings = artefact.settings
    made = {"base": base, "token": settings["token"], **facts, "versions": artefact.manifest["versions"][-1]}
    way = "--model" if folder.name == "model" else "--adapters"
    card = folder / "README.md"
    write(
        card,
        [
            f"# {artefact.folder.resolve().parent.name}",
            f"Made by `redraft train`, served by `redraft serve {way}`.",
            facts_table({name: value for name, value in made.items() if value is not None}),
            "## Settings of the training",
            f"```json\n{json.dumps(settings['fit'], indent=1)}\n```",
            "## What it learnt, and what that was made of",
            *(f"```json\n{json.dumps(step, indent=1)}\n```" for step in ancestry(rows)),
            "![Loss](losses.png)",
        ],
    )
    return card


def ancestry(artefact: Artefact) -> list[dict[str, Any]]:
    """How an artefact was made, and what it was made of, but for models, which have cards of their own."""
    steps: dict[str, dict[str, Any]] = {}
    waiting = [artefact]
    while waiting:
        one = waiting.pop(0)
        found = one.manifest
        if found["step"] != "fit" and one.digest not in steps:
            steps[one.digest] = {key: found.get(key) for key in ("step", "settings", "facts")} | {"digest": one.digest}
            waiting += filter(None, (one.parent(name) for name in found["parents"]))
    return list(steps.values())
