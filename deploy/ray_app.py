"""redraft on Ray Serve: two applications, engines and gateways, each with replicas that come and go by load.

    serve run --route-prefix /engine --name engines --non-blocking deploy.ray_app:engines model=MODEL gpus=1
    serve run --name gateways deploy.ray_app:gateways model=MODEL

or both from a file, `serve run deploy/ray.yaml`. The arguments are those of `EngineArguments` and `GatewayArguments`.

They are two applications, so that a gateway can be changed without loading a model again, and so that the engines have
an address: a gateway asks them over HTTP at its own node's Serve proxy, as it would ask any `vllm serve`. There Serve's
consistent hashing reads the session that each of a request's calls names, and sends them to one replica, whose prefix
cache then has what they share; if that one is full, to the next. Gateways need no such thing: they keep nothing.

Serve shows both applications to whoever reaches its port. REDRAFT_UPSTREAM_KEY in the cluster's environment keeps all
but gateways from the engines, and REDRAFT_API_KEY asks clients for a key.
"""

from typing import Any

from ray import serve
from ray.serve import Application

from deploy.ray_engine import EngineReplica
from deploy.ray_gateway import GatewayReplica
from deploy.ray_settings import EngineArguments, GatewayArguments, Replicas

ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
HEALTH_SECONDS = 30.0
"""Longest wait for a replica's own word on its health: on a CPU a step of the engine and a correction may last."""


def engines(arguments: EngineArguments) -> Application:
    """Servers of vLLM, which Serve balances by session. Mount them at a route of their own."""
    deployment = serve.deployment(
        name="Engine", **options(arguments), request_router_config={"request_router_class": ROUTER}
    )
    application: Application = deployment(serve.ingress()(EngineReplica)).bind(arguments)
    return application


def gateways(arguments: GatewayArguments) -> Application:
    """Gateways in front of the engines."""
    deployment = serve.deployment(name="Gateway", **options(arguments))
    application: Application = deployment(serve.ingress()(GatewayReplica)).bind(arguments)
    return application


def options(arguments: Replicas) -> dict[str, Any]:
    """What Serve is told about a deployment."""
    return {
        "autoscaling_config": {
            "min_replicas": arguments.min_replicas,
            "max_replicas": arguments.max_replicas,
            "target_ongoing_requests": arguments.target_ongoing_requests,
        },
        "max_ongoing_requests": arguments.max_ongoing_requests,
        "ray_actor_options": {"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
        "health_check_timeout_s": HEALTH_SECONDS,
    }
