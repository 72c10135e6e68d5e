"""Products in bfloat16 are for machines that have instructions for them."""

from typing import Any

import pytest
import torch

from trainer import device
from trainer.fitting import trainer_of
from trainer.settings import FitSettings


def test_the_device_has_a_name() -> None:
    assert device.name().startswith("CPU, ") or torch.cuda.is_available()


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is a GPU's to say")
def test_a_cpu_without_instructions_for_bfloat16_does_without() -> None:
    """AVX2 has none; AMX and AVX-512 do."""
    found = torch.backends.cpu.get_cpu_capability()
    assert device.multiplies_bfloat16() == (found not in ("AVX2", "DEFAULT", "NO AVX"))


@pytest.mark.parametrize(
    ("has", "wanted", "expected"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_autocast_is_for_those_that_have_them(
    has: bool, wanted: bool, expected: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    class Given(Exception):
        pass

    def config(**settings: Any) -> None:
        given.append(settings)
        raise Given

    monkeypatch.setattr(device, "multiplies_bfloat16", lambda: has)
    monkeypatch.setattr("trainer.fitting.SFTConfig", config)
    row: Any = type("Row", (), {"rejected": None, "prompt": (1,), "chosen": (2,)})()
    with pytest.raises(Given):
        trainer_of(None, None, [row], FitSettings(autocast=wanted), tmp_path, [])  # type: ignore[arg-type]
    assert given[0]["bf16"] is expected
