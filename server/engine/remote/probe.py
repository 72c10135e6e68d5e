"""What the upstream servers serve and can do, found out once, before the gateway is built."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from server.engine.remote.faults import Fault, UpstreamError
from server.engine.remote.replicas import Identity, Replica, Replicas
from server.settings import Settings
from strategies.engine import Capability
from strategies.srgen.request import ARGUMENT as SRGEN

MAX_LOGPROBS = 20
"""VLLM's default: as many as strategies may ask for."""
TOKEN_SECONDS = 60.0
"""The first token of a server that has just started may take long."""
GENERATE = "/inference/v1/generate"
CHAT = "/v1/chat/completions"
LOAD_ADAPTER = "/v1/load_lora_adapter"

logger = logging.getLogger("redraft.remote")


@dataclass(frozen=True, slots=True)
class Found:
    """What all upstream servers have in common."""

    identity: Identity
    capabilities: frozenset[Capability]
    adapters: Mapping[str, str]
    """Adapters that they serve already: folder by name."""
    loads_adapters: bool
    """Whether they load adapters at run time."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The servers, and what was found out about them."""

    replicas: Replicas
    found: Found


async def find(settings: Settings) -> Found:
    """Asks each upstream server. One that is away is left for later, if another is there.

    Raises:
        RuntimeError: none is there, they serve different models, or none that was asked for.
    """
    replicas = Replicas(settings)
    try:
        found = [one for replica in replicas.all if (one := await _find_one(replicas, replica, settings)) is not None]
    finally:
        await replicas.close()
    if not found:
        raise RuntimeError(f"no upstream server answers: {', '.join(settings.upstream)}")
    first = found[0]
    for other in found[1:]:
        if other.identity != first.identity:
            raise RuntimeError(f"the upstream servers differ: {first.identity} and {other.identity}")
    common = {name: root for name, root in first.adapters.items() if all(name in one.adapters for one in found)}
    return Found(
        first.identity,
        frozenset.intersection(*(one.capabilities for one in found)),
        common,
        all(one.loads_adapters for one in found),
    )


async def _find_one(replicas: Replicas, replica: Replica, settings: Settings) -> Found | None:
    try:
        cards = await replicas.models(replica)
        identity = chosen(cards, settings.served_model_name)
        return Found(
            identity,
            await _capabilities(replicas, replica, identity.model),
            {card["id"]: card.get("root") or card["id"] for card in cards if card.get("parent") == identity.model},
            (await replicas.ask(replica, LOAD_ADAPTER, {})).status_code in (400, 422),
        )
    except (Fault, UpstreamError, httpx.HTTPError) as error:
        logger.warning("%s does not answer: %s: %s", replica.url, type(error).__name__, error)
        return None


def chosen(cards: list[dict[str, Any]], name: str | None) -> Identity:
    """The model to stand for. Raises RuntimeError if that is not clear."""
    models = [Identity.of(card) for card in cards if card.get("parent") is None]
    listed = ", ".join(model.model for model in models) or "none"
    named = [model for model in models if name in (None, model.model)]
    if not named:
        raise RuntimeError(f"the upstream server has no model {name!r}; it has: {listed}")
    if len({model.root for model in named}) > 1:
        raise RuntimeError(f"the upstream server has several models; choose with --served-model-name: {listed}")
    return named[0]


async def _capabilities(replicas: Replicas, replica: Replica, model: str) -> frozenset[Capability]:
    """By asking for one token at a time."""
    answer = await _generate(replicas, replica, model, {})
    if answer is None:
        return await _of_messages(replicas, replica, model)
    names: set[Capability] = {"tokens", "grammar"}
    if await _generate(replicas, replica, model, {"logprobs": MAX_LOGPROBS}) is not None:
        names.add("logprobs")
    # Without counts of what its cache served nobody can tell which log-probabilities of a prompt are real.
    if "logprobs" in names and (answer.get("usage") or {}).get("prompt_tokens_details") is not None:
        names.add("scores")
    # Only where redraft's processor is loaded does somebody mind that this is no JSON.
    if await _generate(replicas, replica, model, {"extra_args": {SRGEN: "?"}}) is None:
        names.add("hidden_states")
    return frozenset(names)


async def _of_messages(replicas: Replicas, replica: Replica, model: str) -> frozenset[Capability]:
    """Of a server that takes messages alone."""
    talk = [{"role": "user", "content": "Hello"}]
    body = {"model": model, "messages": talk, "max_tokens": 1, "logprobs": True, "top_logprobs": MAX_LOGPROBS}
    response = await replicas.ask(replica, CHAT, body, seconds=TOKEN_SECONDS)
    try:
        told = response.json()["choices"][0]["logprobs"]["content"]
    except (ValueError, LookupError, TypeError):
        return frozenset()
    return frozenset({"logprobs"} if told else ())


async def _generate(
    replicas: Replicas, replica: Replica, model: str, sampling: Mapping[str, Any]
) -> dict[str, Any] | None:
    params = {"max_tokens": 1, "temperature": 0.0, **sampling}
    body = {"model": model, "token_ids": [1], "sampling_params": params}
    response = await replicas.ask(replica, GENERATE, body, seconds=TOKEN_SECONDS)
    try:
        found = response.json() if response.status_code == httpx.codes.OK else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
