"""What Serve is told, by Serve's own schemas; nothing is started."""

import pytest
import yaml

from deploy.ray_settings import EngineArguments, GatewayArguments
from tests.deploy.files import DEPLOY

pytest.importorskip("ray", reason="make test-deploy installs it")


def test_serve_takes_the_config_file() -> None:
    from ray.serve.schema import ServeDeploySchema

    parsed = ServeDeploySchema.model_validate(yaml.safe_load((DEPLOY / "ray.yaml").read_text()))
    assert [application.name for application in parsed.applications] == ["engines", "gateways"]


@pytest.mark.parametrize("name", ["engines", "gateways"])
def test_an_application_of_each_kind(name: str) -> None:
    from deploy import ray_app

    kind = {"engines": EngineArguments, "gateways": GatewayArguments}[name]
    arguments = kind(min_replicas=2, max_replicas=5, target_ongoing_requests=7, gpus=4, cpus=3)
    deployment = getattr(ray_app, name)(arguments)._bound_deployment
    config = deployment._deployment_config
    scaling = config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (2, 5, 7)
    assert config.max_ongoing_requests == arguments.max_ongoing_requests
    assert deployment.ray_actor_options == {"num_cpus": 3, "num_gpus": 4}
    router = str(config.request_router_config.request_router_class)
    assert router.endswith("ConsistentHashRouter") == (name == "engines")
