"""The servers that are compared, side by side, started alike and set up for the same model."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.progress import Progress

from benchmarks import servers
from benchmarks.machine import shown
from benchmarks.peers import seen_calls
from benchmarks.peers.arms import EMBEDDED, ITS_HUB, OPTILLM, REMOTE, TEMPERATURE, VLLM
from benchmarks.peers.environments import ENVIRONMENTS, PeerError
from benchmarks.peers.seen_calls import SeenCalls
from benchmarks.plugins import announced
from benchmarks.servers import MODEL, EngineFlags, Server
from clients.process import ServerError, ServerProcess, free_port

PLUGINS: Mapping[str, str] = {seen_calls.NAME: f"{seen_calls.__name__}:register"}
READY_SECONDS = 120.0
KEY = "none"
"""OptiLLM would take one that begins with sk- for the client's own; its_hub refuses an empty one."""
# Loopback is not to go through a proxy of the user's, nor requests to an endpoint of hers.
VARIABLES: Mapping[str, str] = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), ""),
    **dict.fromkeys(("OPTILLM_API_KEY", "CEREBRAS_API_KEY", "AZURE_OPENAI_API_KEY"), ""),
    "OPENAI_API_KEY": KEY,
}
VOTED = r"(?i)the answer is:? *(\S*\w)"
"""What answers are compared by, in its_hub, which must be told: what the suites ask answers to end with."""


class Peer(ServerProcess):
    """A gateway of others, in front of a server.

    Attributes:
        url: where it listens, without a path.
    """

    def __init__(self, script: Path, arguments: Sequence[str], port: int, ready: str) -> None:
        super().__init__([str(script), *arguments], VARIABLES)
        self.url = f"http://127.0.0.1:{port}"
        self._ready = ready

    def wait(self) -> None:
        """Waits until it answers. Raises ServerError if it does not."""
        self.wait_healthy(f"{self.url}{self._ready}", READY_SECONDS, lambda seconds, line: None)

    def command(self) -> str:
        """How it was started."""
        return shown(" ".join(self._command))


def optillm(upstream: str) -> Peer:
    """OptiLLM, not yet started. Raises PeerError if it cannot be installed."""
    port = free_port()
    arguments = ["--base-url", f"{upstream}/v1", "--port", str(port), "--log", "warning"]
    return Peer(ENVIRONMENTS["optillm"].command("optillm"), arguments, port, "/health")


def its_hub(upstream: str) -> Peer:
    """its_hub, not yet started. Raises PeerError if it cannot be installed."""
    port = free_port()
    arguments = ["--port", str(port), "--log-level", "WARNING"]
    return Peer(ENVIRONMENTS["its_hub"].command("its-iaas"), arguments, port, "/v1/models")


def configure_its_hub(url: str, upstream: str) -> None:
    """Tells a running its_hub what it stands in front of. Raises PeerError."""
    setup = {
        "endpoint": f"{upstream}/v1",
        "api_key": KEY,
        "model": MODEL,
        "alg": "self-consistency",
        "regex_patterns": [VOTED],
        "temperature": TEMPERATURE,
    }
    response = httpx.post(f"{url}/configure", json=setup, trust_env=False)
    if response.status_code != httpx.codes.OK:
        raise PeerError(f"status {response.status_code}: {response.text[:300]}")


@dataclass
class Fleet:
    """All gateways that run.

    Attributes:
        urls: of gateways, by name.
        engines: the two servers with an engine, by name.
        calls: what their engines are asked, by name.
        commands: with which they were started, by name.
        failed: why others do not run, by name.
    """

    urls: dict[str, str] = field(default_factory=dict)
    engines: dict[str, Server] = field(default_factory=dict)
    calls: dict[str, SeenCalls] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raises ServerError if an engine has ended."""
        for engine in self.engines.values():
            engine.check()


def started(flags: EngineFlags, tokens: int, stack: ExitStack, progress: Progress) -> Fleet:
    """Every gateway, up until the stack is left. Raises ServerError if one of the two engines does not start.

    Args:
        flags: of both engines.
        tokens: of an answer at most, where a gateway does not say: its_hub never does.
        stack: that ends them.
        progress: that shows what starts.
    """
    fleet = Fleet()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    model = servers.prepared_model()
    defaults = ["--override-generation-config", json.dumps({"temperature": TEMPERATURE, "max_new_tokens": tokens})]
    _start_engines(fleet, flags, model, defaults, folder, stack, progress)
    upstream = fleet.urls[VLLM]

    def attempt(name: str, start: Callable[[], None]) -> None:
        task = progress.add_task(f"starting {name}", total=None)
        try:
            start()
        except (PeerError, ServerError, httpx.HTTPError, OSError) as error:
            fleet.failed[name] = str(error)
            fleet.urls.pop(name, None)
        progress.remove_task(task)

    attempt(OPTILLM, lambda: _start_peer(fleet, OPTILLM, optillm(upstream), stack))
    attempt(ITS_HUB, lambda: _start_peer(fleet, ITS_HUB, its_hub(upstream), stack))
    if ITS_HUB in fleet.urls:
        attempt(ITS_HUB, lambda: configure_its_hub(fleet.urls[ITS_HUB], upstream))
    attempt(REMOTE, lambda: _start_remote(fleet, model, upstream, stack, progress))
    return fleet


def _start_engines(
    fleet: Fleet,
    flags: EngineFlags,
    model: str,
    defaults: Sequence[str],
    folder: Path,
    stack: ExitStack,
    progress: Progress,
) -> None:
    for name in (EMBEDDED, VLLM):
        fleet.calls[name] = SeenCalls(folder / f"{name}.jsonl")
    port = free_port()
    variables = dict(fleet.calls[EMBEDDED].variables)
    for plugin, target in PLUGINS.items():
        variables |= announced(folder / "redraft", plugin, target)
    ours = servers.redraft([*flags.for_redraft(model, port), *defaults], port, variables)
    _add(fleet, EMBEDDED, servers.started(ours, stack, progress))
    port = free_port()
    # What redraft chose for its engine, the other gets too.
    variables = {**ours.engine_variables(), **fleet.calls[VLLM].variables}
    # Token ids in and out, for redraft in front of it.
    arguments = flags.for_vllm(
        model, port, ours.dtype(), [*defaults, "--enable-scale-out", "--enable-prompt-tokens-details"]
    )
    theirs = servers.vllm(arguments, port, variables, folder / "vllm", PLUGINS)
    _add(fleet, VLLM, servers.started(theirs, stack, progress))


def _add(fleet: Fleet, name: str, server: Server) -> None:
    fleet.engines[name], fleet.urls[name], fleet.commands[name] = server, server.url, server.command()


def _start_peer(fleet: Fleet, name: str, peer: Peer, stack: ExitStack) -> None:
    with ExitStack() as starting:
        starting.enter_context(peer)
        peer.wait()
        stack.push(starting.pop_all())
    fleet.urls[name], fleet.commands[name] = peer.url, peer.command()


def _start_remote(fleet: Fleet, model: str, upstream: str, stack: ExitStack, progress: Progress) -> None:
    port = free_port()
    arguments = ["serve", "--port", str(port), "--engine", "remote", "--upstream", upstream, "--model", model]
    server = servers.redraft(arguments, port)
    fleet.urls[REMOTE], fleet.commands[REMOTE] = servers.started(server, stack, progress).url, server.command()
