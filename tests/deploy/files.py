"""The files in deploy/, and what stands in them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


def manifests() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each Kubernetes object, with a name for it."""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            yield f"{path.stem}:{manifest['kind']}", manifest


def services() -> Mapping[str, Mapping[str, Any]]:
    """The services of the compose file."""
    found: Mapping[str, Mapping[str, Any]] = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())["services"]
    return found


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """Where a container is started, what program, and with which arguments. Without an own command: redraft serve."""
    for name, service in services().items():
        program = " ".join(service.get("entrypoint", ["redraft", "serve"]))
        yield f"compose:{name}", program, service["command"]
    for name, manifest in manifests():
        if manifest["kind"] == "Deployment":
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            yield f"kubernetes:{name}", " ".join(container.get("command", ["redraft", "serve"])), container["args"]
