"""Scorers against values by hand, and against the exact ones over a whole vocabulary."""

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from strategies.engine import Generation, TokenLogprobs
from strategies.scores import MeanLogprob, SelfCertainty, mean_logprob
from tests.strategies.scripted import Entry

VOCABULARY = 50
Logprobs = npt.NDArray[np.float64]


def distributions(*scales: float) -> list[Logprobs]:
    """Log-probabilities over the vocabulary; the larger the scale, the nearer to certainty."""
    random = np.random.default_rng(0)
    logits = [random.normal(scale=scale, size=VOCABULARY) for scale in scales for _ in range(25)]
    return [each - np.logaddexp.reduce(each) for each in logits]


def likeliest(logprobs: Logprobs, count: int) -> TokenLogprobs:
    """What an engine returns of them."""
    order = np.argsort(-logprobs)[:count]
    return {int(token): Entry(float(logprobs[token]), rank) for rank, token in enumerate(order, 1)}


def exact(logprobs: Logprobs) -> float:
    """KL(uniform || p) over all tokens, as it is defined."""
    uniform = 1 / VOCABULARY
    return float(np.sum(uniform * (math.log(uniform) - logprobs)))


def test_self_certainty_by_hand() -> None:
    # V = 4: p is 1/2 and 1/4 as seen, and so 1/8 and 1/8 for the rest. -1/4 (ln 2 + ln 1 + 2 ln 1/2) = ln(2) / 4.
    seen: TokenLogprobs = {7: Entry(math.log(0.5)), 8: Entry(math.log(0.25))}
    assert SelfCertainty().token(seen, 7, 4) == pytest.approx(math.log(2) / 4)


def test_self_certainty_of_an_even_distribution_is_zero() -> None:
    seen: TokenLogprobs = {token: Entry(math.log(1 / 8)) for token in range(3)}
    assert SelfCertainty().token(seen, 0, 8) == pytest.approx(0)


@pytest.mark.parametrize("count", [1, 2, 5, 20, 49])
def test_self_certainty_is_a_lower_bound(count: int) -> None:
    for logprobs in distributions(0.1, 1.0, 3.0, 5.0, 10.0):
        bound = SelfCertainty().token(likeliest(logprobs, count), 0, VOCABULARY)
        assert -1e-9 <= bound <= exact(logprobs) + 1e-9


def test_self_certainty_is_a_lower_bound_in_float32_too() -> None:
    """A rest that is lost in rounding must not make a token look many nats surer than it is."""
    random = np.random.default_rng(0)
    for lead in np.linspace(8, 40, 100):
        logits = random.normal(size=VOCABULARY).astype(np.float32)
        logits[0] = lead
        shifted = logits - logits.max()
        rounded = (shifted - np.log(np.exp(shifted).sum())).astype(np.float64)
        true = logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64))
        assert SelfCertainty().token(likeliest(rounded, 20), 0, VOCABULARY) <= exact(true) + 1e-3


def test_self_certainty_is_exact_over_the_whole_vocabulary() -> None:
    for logprobs in distributions(0.1, 1.0, 3.0, 5.0, 10.0):
        bound = SelfCertainty().token(likeliest(logprobs, VOCABULARY), 0, VOCABULARY)
        assert bound == pytest.approx(exact(logprobs), abs=1e-9)


def test_self_certainty_is_exact_where_the_rest_is_even() -> None:
    """No larger bound is possible: this distribution has these likeliest tokens."""
    for logprobs in distributions(0.1, 1.0, 2.0):
        seen = likeliest(logprobs, 20)
        even = np.full(VOCABULARY, math.log((1 - sum(math.exp(e.logprob) for e in seen.values())) / (VOCABULARY - 20)))
        even[list(seen)] = [entry.logprob for entry in seen.values()]
        assert np.exp(even).sum() == pytest.approx(1)
        assert SelfCertainty().token(seen, 0, VOCABULARY) == pytest.approx(exact(even), abs=1e-9)


def test_self_certainty_grows_with_what_is_seen() -> None:
    for logprobs in distributions(0.1, 1.0, 2.0):
        bounds = [SelfCertainty().token(likeliest(logprobs, count), 0, VOCABULARY) for count in range(1, 41)]
        assert all(later > earlier for earlier, later in pairwise(bounds))


@pytest.mark.parametrize("logprob", [0.0, 1e-7])
def test_self_certainty_is_finite_where_rounding_leaves_nothing(logprob: float) -> None:
    score = SelfCertainty().token({0: Entry(logprob)}, 0, 1000)
    assert math.isfinite(score)
    assert score > SelfCertainty().token({0: Entry(math.log(0.99))}, 0, 1000)


def test_self_certainty_counts_forbidden_tokens_among_the_unseen() -> None:
    """A grammar leaves minus infinity at them."""
    seen: TokenLogprobs = {7: Entry(math.log(0.5)), 8: Entry(math.log(0.25))}
    forbidden: TokenLogprobs = {**seen, 9: Entry(-math.inf)}
    assert SelfCertainty().token(forbidden, 7, 4) == SelfCertainty().token(seen, 7, 4)


def test_mean_logprob_takes_the_sampled_token() -> None:
    seen: TokenLogprobs = {1: Entry(-0.25), 2: Entry(-2.0)}
    assert MeanLogprob().token(seen, 2, 1000) == -2.0
    assert MeanLogprob.likeliest == 0


def test_mean_logprob_of_an_answer() -> None:
    logprobs: tuple[TokenLogprobs, ...] = ({1: Entry(-0.5), 9: Entry(-0.1)}, {2: Entry(-1.5)})
    assert mean_logprob(Generation("ab", (1, 2), logprobs)) == -1.0


def test_mean_logprob_of_nothing_is_the_least() -> None:
    assert mean_logprob(Generation()) == -math.inf
    assert mean_logprob(Generation("", (), ())) == -math.inf
