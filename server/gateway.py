"""What the routes share: the engine's state, the strategies, and how a request becomes a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import State

from server.engine.remote.proxy import Proxy
from server.errors import ApiError
from server.limits import RunLimiter
from server.resolve import Plan, resolve
from server.run import StrategyRun
from server.settings import Settings
from server.vllm_api import Services, capabilities
from strategies.base import Event, Plugin
from strategies.engine import Capabilities
from strategies.reports import OWN_ARGUMENTS
from strategies.srgen.request import SRGenRequest


@dataclass(frozen=True, slots=True)
class Gateway:
    """One server: its settings, its strategies, and vLLM's state."""

    settings: Settings
    strategies: Mapping[str, type[Plugin]]
    limiter: RunLimiter
    vllm: State
    """vLLM's serving classes, as its own routes find them."""
    services: Services
    proxy: Proxy | None = None
    """Passes plain requests on, in front of servers elsewhere."""

    @classmethod
    def of(cls, request: Request) -> "Gateway":
        """The gateway that serves a request."""
        gateway: Gateway = request.app.state.gateway
        return gateway

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return capabilities(self.vllm.engine_client, services=self.services)

    def models(self) -> list[str]:
        """Names of the listed models and adapters."""
        serving = self.vllm.openai_serving_models
        return [path.name for path in serving.base_model_paths] + list(serving.lora_requests)

    def plan(self, model: str | None, spec: object) -> Plan | None:
        """The plan for a request, None for a plain one. Raises ApiError."""
        if spec is None and (model is None or "@" not in model):
            return None  # What the engine can do takes a while to say, and most requests are plain.
        return resolve(
            model, spec, models=self.models(), strategies=self.strategies, capabilities=self.capabilities.names
        )

    def refuse_strategy(self, model: str | None, spec: object) -> None:
        """Raises ApiError 400 if a request to a route without strategies asks for one."""
        if self.plan(model, spec) is not None:
            raise ApiError(400, "this route takes no strategy; use /v1/chat/completions or /v1/responses", "strategy")

    def run_of(self, plan: Plan, include_reasoning: bool) -> Callable[[Callable[[Event], None]], StrategyRun]:
        """Makes a run of a plan from the sink for its thoughts and notes."""

        def make(sink: Callable[[Event], None]) -> StrategyRun:
            return StrategyRun(plan, sink, self.settings, self.limiter, include_reasoning)

        return make


def refuse_fields(request: Any, **allowed: object) -> None:
    """Raises ApiError 400 for each field whose value is not the one a strategy allows."""
    for name, value in allowed.items():
        if getattr(request, name, value) not in (value, None):
            raise ApiError(400, f"{name} does not go with a strategy", name)


def refuse_engine_fields(request: Any) -> None:
    """Raises ApiError 400 for fields that would harm other requests of the engine."""
    extra: Mapping[str, Any] = request.model_extra or {}
    if extra.get("logprob_token_ids") is not None or getattr(request, "logprob_token_ids", None) is not None:
        # It replaces the log-probabilities of the whole batch in vLLM 0.32.
        raise ApiError(400, "logprob_token_ids is not offered; use top_logprobs", "logprob_token_ids")
    arguments: Mapping[str, Any] = getattr(request, "vllm_xargs", None) or {}
    if ours := [name for name in arguments if name.startswith(OWN_ARGUMENTS)]:
        raise ApiError(400, f"{ours[0]} is the server's own", "vllm_xargs")
    if "srgen" in arguments and getattr(request, "use_beam_search", False):
        # VLLM's beams leave extra arguments behind.
        raise ApiError(400, "srgen cannot be used with beam search", "vllm_xargs")
    try:
        # VLLM itself finds out when a stream has begun, and its status is sent.
        SRGenRequest.read(arguments)
    except ValueError as error:
        raise ApiError(400, str(error), "vllm_xargs") from None
