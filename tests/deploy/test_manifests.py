"""The compose file and the Kubernetes manifests: their programs' own parsers read the flags. No daemon, no cluster."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from typer.main import get_command

from deploy.router import VARIABLE
from server.cli import app
from server.settings import Settings
from tests.deploy.files import DEPLOY, commands, manifests, services

GATEWAY, ENGINE, ROUTER = (
    "redraft serve",
    "python -m vllm.entrypoints.launchers.api_server.entry",
    "python -m deploy.router",
)
CONTAINERS = {where: (program, flags) for where, program, flags in commands()}


def started(program: str) -> list[Any]:
    found = [pytest.param(flags, id=where) for where, (name, flags) in CONTAINERS.items() if name == program]
    assert found
    return found


def substituted(flags: Sequence[str]) -> list[str]:
    """With compose's defaults for variables."""
    return [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", flag) for flag in flags]


def test_each_container_runs_a_known_program() -> None:
    assert {program for program, _ in CONTAINERS.values()} == {GATEWAY, ENGINE, ROUTER}
    assert len(CONTAINERS) == 7


@pytest.mark.parametrize("flags", started(GATEWAY))
def test_redraft_takes_its_flags(flags: list[str]) -> None:
    command: Any = get_command(app)
    given = command.commands["serve"].make_context("serve", substituted(flags)).params
    settings = Settings(**{name: value for name, value in given.items() if value not in (None, [])})
    assert (settings.engine, len(settings.upstream)) == ("remote", 1)


@pytest.mark.parametrize("flags", started(ENGINE))
def test_vllm_takes_its_flags(flags: list[str]) -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())  # type: ignore[no-untyped-call]
    parsed = parser.parse_args(substituted(flags))
    validate_parsed_serve_args(parsed)
    assert parsed.enable_scale_out and parsed.enable_prompt_tokens_details, "else it is no engine for a gateway"
    assert parsed.api_key is None, "keys come from the environment"


@pytest.mark.parametrize("flags", started(ROUTER))
def test_vllm_router_takes_its_flags(flags: list[str]) -> None:
    pytest.importorskip("vllm_router", reason="make test-deploy installs it")
    from deploy.router import arguments

    parsed = arguments(flags, {VARIABLE: "secret"})
    parsed._validate_router_args()
    assert (parsed.policy, parsed.api_key, parsed.disable_retries) == ("consistent_hash", "secret", True)
    assert bool(parsed.worker_urls) != parsed.service_discovery


def test_no_key_is_in_a_file() -> None:
    environments = [service.get("environment", {}) for service in services().values()]
    keys = [value for variables in environments for name, value in variables.items() if name.endswith("_KEY")]
    assert len(keys) == 5
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", key) for key in keys)
    for _, manifest in manifests():
        for variable in variables_of(manifest):
            assert variable["name"].endswith("_KEY") == ("secretKeyRef" in variable.get("valueFrom", {}))
    assert not [flag for _, flags in CONTAINERS.values() for flag in flags if "key" in flag]


def variables_of(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if manifest["kind"] != "Deployment":
        return []
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return list(container["env"])


def test_the_router_knows_every_engine() -> None:
    engines = {name for name in services() if CONTAINERS[f"compose:{name}"][0] == ENGINE}
    named = {flag for flag in services()["router"]["command"] if flag.startswith("http:")}
    assert named == {f"http://{name}:8000" for name in engines}
    assert len(engines) > 1


def test_pods_are_found_by_their_labels() -> None:
    labels = {
        manifest["metadata"]["name"]: manifest["spec"]["template"]["metadata"]["labels"]
        for _, manifest in manifests()
        if manifest["kind"] == "Deployment"
    }
    for where, manifest in manifests():
        selector = manifest.get("spec", {}).get("selector", manifest.get("spec", {}).get("podSelector"))
        if selector is not None:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= own.items() for own in labels.values()), where
    flags = CONTAINERS["kubernetes:router:Deployment"][1]
    name, _, value = flags[flags.index("--selector") + 1].partition("=")
    assert labels["redraft-engine"][name] == value


def test_addresses_lead_to_services() -> None:
    names = {manifest["metadata"]["name"] for _, manifest in manifests() if manifest["kind"] == "Service"}
    (address,) = [flag for flag in CONTAINERS["kubernetes:gateway:Deployment"][1] if flag.startswith("--upstream=")]
    assert address.removeprefix("--upstream=http://").removesuffix(":8000") in names
    (address,) = [flag for flag in services()["gateway"]["command"] if flag.startswith("--upstream=")]
    assert address.removeprefix("--upstream=http://").removesuffix(":8000") in services()


def test_the_kustomization_has_every_manifest() -> None:
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    (kustomization,) = [manifest for _, manifest in manifests() if manifest["kind"] == "Kustomization"]
    assert set(kustomization["resources"]) == files


@pytest.mark.parametrize("where", [where for where, manifest in manifests() if manifest["kind"] != "Kustomization"])
def test_kubernetes_schemas(where: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="make test-deploy installs it")
    for found, manifest in manifests():
        if found == where:
            validate.validate(manifest, "1.33", strict=True)
