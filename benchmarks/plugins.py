"""vLLM plugins for one process alone, which no installed package announces."""

from pathlib import Path


def announced(folder: Path, name: str, target: str) -> dict[str, str]:
    """Variables with which a process loads `target` (module:function) as a vLLM plugin. `folder` tells it so."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{name} = {target}\n")
    return {"PYTHONPATH": str(folder)}
