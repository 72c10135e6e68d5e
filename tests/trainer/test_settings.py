"""How rows are fitted: what would do nothing is refused."""

from typing import Any

import pytest

from trainer.settings import FitSettings


def test_batches_are_whole() -> None:
    with pytest.raises(ValueError, match="batch 8 is no multiple of micro_batch 16 x processes 1"):
        FitSettings(batch=8)
    with pytest.raises(ValueError, match="batch 64 is no multiple of micro_batch 16 x processes 3"):
        FitSettings(processes=3)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dpo_weight": 0, "nll_weight": 0}, "there is no loss"),
        ({"merge": False}, "merge = false is for lora"),
        ({"lora": {}, "frozen": 0.5}, "have no meaning"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        FitSettings.model_validate(settings)
