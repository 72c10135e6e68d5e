"""Which answers vote together."""

import pytest

from benchmarks.suites import Verdict


@pytest.mark.parametrize(
    ("right", "said", "vote"),
    [
        (True, "4", "="),
        (True, None, "="),
        (False, "=", "!="),
        (False, "1,234.50", "!2469/2"),
        (False, "$20", "!20"),
        (False, "0.5", "!1/2"),
        (False, " New  York ", "!new york"),
        (False, "1/0", "!1/0"),
        (False, "1e999999999", "!1e999999999"),
        (False, "", None),
        (False, "  ", None),
        (False, None, None),
    ],
)
def test_votes(right: bool, said: str | None, vote: str | None) -> None:
    assert Verdict.of(right, said) == Verdict(right, vote)
