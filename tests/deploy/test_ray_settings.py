"""Arguments of the Ray Serve applications, as `serve run` and a config file give them. Needs no Ray."""

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from deploy.ray_settings import DECIDED_HERE, ENGINE_SETTINGS, EngineArguments, GatewayArguments, Replicas
from server.engine.arguments import engine_arguments
from server.engine.hardware import Hardware
from server.models import ResolvedModel
from server.settings import Settings
from tests.deploy.files import DEPLOY

ARGUMENTS: dict[str, type[Replicas]] = {"engines": EngineArguments, "gateways": GatewayArguments}


def applications() -> dict[str, dict[str, Any]]:
    config = yaml.safe_load((DEPLOY / "ray.yaml").read_text())
    return {application["name"]: application for application in config["applications"]}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_config_file_is_valid(name: str) -> None:
    application = applications()[name]
    assert application["import_path"] == f"deploy.ray_app:{name}"
    ARGUMENTS[name].model_validate(application["args"])


def test_the_gateways_of_the_config_file_ask_its_engines() -> None:
    config = yaml.safe_load((DEPLOY / "ray.yaml").read_text())
    prefix = applications()["engines"]["route_prefix"]
    upstream = GatewayArguments.model_validate(applications()["gateways"]["args"]).upstream
    assert upstream == (f"http://127.0.0.1:{config['http_options']['port']}{prefix}",)
    assert upstream == GatewayArguments().upstream


def test_vllm_takes_the_flags_of_the_config_file() -> None:
    arguments = EngineArguments.model_validate(applications()["engines"]["args"])
    hardware = Hardware("cuda", (0, 1), 2**34, frozenset())
    model = ResolvedModel("model", "model", local=False)
    parsed = engine_arguments(arguments.redraft(), model, hardware, arguments.vllm_flags)
    assert parsed.tensor_parallel_size == arguments.gpus == 1


def test_flags_of_a_command_line() -> None:
    arguments = EngineArguments.model_validate(
        {"vllm_flags": "--tensor-parallel-size 2 --hf-overrides '{\"a\": 1}'", "gpus": "2", "max_replicas": "3"}
    )
    assert arguments.vllm_flags == ("--tensor-parallel-size", "2", "--hf-overrides", '{"a": 1}')
    assert (arguments.gpus, arguments.max_replicas) == (2, 3)
    assert GatewayArguments.model_validate({"upstream": "http://a:1, http://b:2"}).upstream == (
        "http://a:1",
        "http://b:2",
    )


@pytest.mark.parametrize("kind", ARGUMENTS.values())
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"replicas": 2}, "Extra inputs"),
        ({"min_replicas": 3, "max_replicas": 2}, "less than min_replicas"),
        ({"max_ongoing_requests": 4}, "no replica would be added"),
        ({"settings": {"api_key": "secret"}}, "REDRAFT_API_KEY"),
        ({"settings": {"upstream_key": "secret"}}, "REDRAFT_UPSTREAM_KEY"),
        ({"settings": {"hots": "a"}}, "hots"),
        ({"settings": {"port": 1}}, "port"),
    ],
)
def test_what_is_wrong_is_said(kind: type[Replicas], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(wrong)


def test_an_engine_has_no_setting_of_a_gateway() -> None:
    with pytest.raises(ValidationError, match="max_queued_runs"):
        EngineArguments(settings={"max_queued_runs": 1})


def test_a_gateway_has_no_setting_of_an_engine() -> None:
    with pytest.raises(ValidationError, match="upstream servers"):
        GatewayArguments(settings={"kv_cache_gib": 1})


def test_arguments_become_settings() -> None:
    engine = EngineArguments(model="m", settings={"kv_cache_gib": 0.5}).redraft()
    assert (engine.engine, engine.model, engine.kv_cache_gib) == ("embedded", "m", 0.5)
    gateway = GatewayArguments(model="m", upstream=("http://a:1/engine",), settings={"max_queued_runs": 3}).redraft()
    assert (gateway.engine, gateway.upstream, gateway.max_queued_runs) == ("remote", ("http://a:1/engine",), 3)


def test_names_of_settings_are_those_of_redraft() -> None:
    assert Settings.model_fields.keys() >= ENGINE_SETTINGS | DECIDED_HERE
