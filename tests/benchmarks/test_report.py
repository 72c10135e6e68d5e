import pytest

from benchmarks.report import Aim, Finding, findings_text, number, spread, table

AT_LEAST = Aim(0.95, at_least=True)


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (Finding("a", 0.97, AT_LEAST), "met"),
        (Finding("a", 0.97, AT_LEAST, (0.96, 0.99)), "met"),
        (Finding("a", 0.97, AT_LEAST, (0.93, 0.99)), "met, not certain"),
        (Finding("a", 0.90, AT_LEAST, (0.85, 0.94)), "**missed**"),
        (Finding("a", 1.2, Aim(1.1), (1.05, 1.3)), "**missed**, not certain"),
    ],
)
def test_a_verdict_says_whether_it_is_certain(finding: Finding, verdict: str) -> None:
    assert finding.verdict() == verdict


def test_what_misses_is_said_with_its_aim() -> None:
    text = findings_text([Finding("throughput", 0.9, AT_LEAST), Finding("latency", 1.0, Aim(1.1))])
    assert text == "1 of 2 aims are missed.\n- throughput: 0.90, the aim is ≥ 0.95."


def test_doubt_about_a_met_aim_is_said_too() -> None:
    text = findings_text([Finding("throughput", 0.97, AT_LEAST, (0.93, 0.99))])
    assert text.splitlines() == [
        "All 1 aims are met.",
        "- Not certain: throughput, 0.97; the interval [0.93, 0.99] holds the aim ≥ 0.95.",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (64, "64"), (1234.5, "1,234"), (0.0001, "< 0.001"), (0.0123, "0.012"), (0.95, "0.95"), (12.34, "12.3")],
)
def test_numbers_have_about_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_spread_shows_its_extremes() -> None:
    assert spread([10.5, 12.0, 9.25]) == "10.5 (9.25..12)"


def test_tables_escape_what_would_end_a_cell() -> None:
    assert table(["a", "b"], [["x|y", 1]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"
