import os
from pathlib import Path

import pytest

from server.engine.hardware import GIB, Hardware, cpu_dtype, detect, kv_cache_gib, thread_binding


def hardware(cores: tuple[int, ...] = (0, 1), memory_gib: float = 16, flags: tuple[str, ...] = ()) -> Hardware:
    return Hardware(device="cpu", cores=cores, memory_bytes=int(memory_gib * GIB), cpu_flags=frozenset(flags))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root folder of a machine of eight cores with 10 GiB free, in no control group."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    write(tmp_path / "proc/meminfo", f"MemTotal: 99999999 kB\nMemAvailable: {10 * 2**20} kB\n")
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\n\nflags\t\t: fpu\n")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize("flags", [("avx512_bf16",), ("avx2", "amx_bf16"), ("asimd", "bf16")])
def test_bfloat16_where_the_cpu_multiplies_it(flags: tuple[str, ...]) -> None:
    assert cpu_dtype(hardware(flags=flags)) == "bfloat16"


def test_float32_elsewhere() -> None:
    assert cpu_dtype(hardware(flags=("avx2", "avx512f", "avx512bw", "asimd"))) == "float32"


@pytest.mark.parametrize(
    ("cores", "binding"),
    [((0,), "0"), ((0, 1), "0-1"), ((6, 1, 2, 3), "1-3,6"), ((0, 2, 4), "0,2,4")],
)
def test_binding_names_every_core(cores: tuple[int, ...], binding: str) -> None:
    assert thread_binding(hardware(cores)) == binding


@pytest.mark.parametrize(
    ("memory_gib", "weights_gib", "expected"),
    [(10, 0, 2), (10, 4, 1), (1000, 0, 8), (2, 0, 0.25), (0.5, 8, 0.25)],
)
def test_kv_cache_is_a_share_of_what_is_left(memory_gib: float, weights_gib: int, expected: float) -> None:
    assert kv_cache_gib(hardware(memory_gib=memory_gib), weights_gib * GIB) == pytest.approx(expected)


def test_a_machine_without_limits(machine: Path) -> None:
    found = detect(machine)
    assert found.cores == tuple(range(8))
    assert found.memory_bytes == 10 * GIB
    assert found.cpu_flags == {"fpu", "avx2", "avx512_bf16"}


def test_unified_control_group_limits_cores_and_memory(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/outer/inner\n")
    outer = machine / "sys/fs/cgroup/outer"
    write(outer / "cpu.max", "350000 100000\n")
    write(outer / "inner/cpu.max", "max 100000\n")
    write(outer / "inner/memory.max", f"{4 * GIB}\n")
    write(outer / "inner/memory.current", f"{3 * GIB}\n")
    write(outer / "inner/memory.stat", f"anon {2 * GIB}\ninactive_file {GIB}\n")
    found = detect(machine)
    assert found.cores == (0, 1, 2)
    assert found.memory_bytes == 2 * GIB


def test_old_control_groups_limit_cores_and_memory(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "4:memory:/job\n2:cpu,cpuacct:/job\n0::/\n")
    write(machine / "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "50000\n")
    write(machine / "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n")
    write(machine / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2 * GIB}\n")
    write(machine / "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    found = detect(machine)
    assert found.cores == (0,)
    assert found.memory_bytes == GIB


def test_unlimited_control_groups_change_nothing(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "4:memory:/\n2:cpu:/\n0::/\n")
    write(machine / "sys/fs/cgroup/cpu.max", "max 100000\n")
    write(machine / "sys/fs/cgroup/memory.max", "max\n")
    write(machine / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(machine / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    write(machine / "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(machine / "sys/fs/cgroup/memory/memory.usage_in_bytes", "4096\n")
    found = detect(machine)
    assert len(found.cores) == 8
    assert found.memory_bytes == 10 * GIB


def test_this_machine() -> None:
    found = detect()
    assert found.cores
    assert found.memory_bytes > 0
