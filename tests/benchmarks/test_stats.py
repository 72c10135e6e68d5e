import pytest

from benchmarks.stats import Ratio, Spread, mcnemar, profile, quantile


def test_a_spread_has_the_median_between_the_extremes() -> None:
    assert Spread.of([3.0, 1.0, 8.0]) == Spread(3.0, 1.0, 8.0)


def test_ratios_are_taken_within_rounds() -> None:
    # The machine was twice as slow in the last round; that must not show.
    ratio = Ratio.of([9.0, 18.0, 4.5], [10.0, 20.0, 5.0])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.9, 0.9, 0.9))


def test_the_interval_holds_the_median_and_is_the_same_every_time() -> None:
    ours = [1.0, 1.1, 0.9, 1.2, 0.8, 1.05]
    ratio = Ratio.of(ours, [1.0] * 6, seed=3)
    assert 0.8 <= ratio.low < ratio.value < ratio.high <= 1.2
    assert ratio == Ratio.of(ours, [1.0] * 6, seed=3)


def test_one_round_gives_no_more_than_itself() -> None:
    ratio = Ratio.of([3.0], [2.0])
    assert (ratio.low, ratio.value, ratio.high) == (1.5, 1.5, 1.5)


def test_a_profile_runs_from_the_least_to_the_greatest() -> None:
    values = list(range(1001))
    assert profile(values, points=3) == [0, 500, 1000]
    assert quantile(profile(values), 0.99) == pytest.approx(990)


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1), (3, 3, 1), (5, 0, 0.0625), (0, 6, 0.03125), (9, 1, 22 / 1024), (1, 0, 1)]
)
def test_a_split_is_judged_by_the_coins_that_would_make_it(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)
