"""Problems, their grading, and the sweep's arithmetic."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks.deepening import Arm, Numbers, Settings, arms, cells, gain, halves, middle, report
from benchmarks.journal import Journal
from benchmarks.problems import Problem, from_file, from_gym, right
from benchmarks.stats import wilson


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("So 3 + 4 = 7. The answer is 7.", "7", True),
        ("The answer is 1,234.0", "1234", True),
        ("It is not 7. The answer is 8.", "7", False),
        ("none", "7", False),
        ("The answer is -2", "-2", True),
        ("The answer is 2", "-2", False),
    ],
)
def test_what_counts_is_what_it_comes_down_to(text: str, answer: str, expected: bool) -> None:
    assert right(text, answer) == expected


def test_files_as_they_are_published(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    lines = [
        {"question": "How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
        {"Body": "He has 3.", "Question": "How many?", "Answer": 3.0},
        {"input": "How many?", "target": 43.0},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    expected = [Problem("How many?", "7"), Problem("He has 3. How many?", "3.0"), Problem("How many?", "43.0")]
    assert from_file(path, 9) == expected
    assert len(from_file(path, 2)) == 2
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="no question and answer"):
        from_file(path, 1)


def test_tasks_of_reasoning_gym() -> None:
    found = from_gym("chain_sum", 3, seed=1)
    assert len({problem.question for problem in found}) == 3
    assert all(right(problem.answer, problem.answer) for problem in found)
    assert found == from_gym("chain_sum", 3, seed=1)
    small = from_gym("gcd:max_value=20,max_numbers=2", 9, seed=1)
    assert max(int(number) for problem in small for number in re.findall(r"\d+", problem.question)) <= 20


def numbers(*values: float) -> Numbers:
    return np.array(values, dtype=float)


def arm_of(right: Numbers, tokens: Numbers) -> Arm:
    nothing = np.zeros_like(right)
    return Arm(right, tokens, nothing, nothing, nothing)


def test_an_interval_has_a_width_where_all_are_alike() -> None:
    assert wilson(0.0, 40) == pytest.approx((0, 0.0876), abs=1e-4)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def constant(right: float, tokens: float) -> Arm:
    """The same on each of four problems."""
    return arm_of(numbers(*[right] * 4), numbers(*[tokens] * 4))


def test_a_gain_is_over_a_mixture_at_as_many_tokens() -> None:
    votes = [constant(0.2, 100), constant(0.6, 200), constant(0.8, 400)]
    for drawn in (halves(4), halves(4, resamples=1)):
        assert gain(constant(0.5, 150), votes, drawn) == pytest.approx([0.1])
        assert gain(constant(0.5, 300), votes, drawn) == pytest.approx([-0.2])
        assert gain(constant(0.5, 400), votes, drawn) == pytest.approx([-0.3])
        assert gain(constant(0.5, 900), votes, drawn) == pytest.approx([-0.3])  # none of it took as many
        assert gain(constant(0.5, 50), votes, drawn) == pytest.approx([0.3])


def test_an_arm_that_a_mixture_beats_is_no_measure() -> None:
    """A vote of two is one sample at twice the price."""
    votes = [constant(0.30, 100), constant(0.30, 195), constant(0.40, 360)]
    assert gain(constant(0.32, 195), votes, halves(4)) == pytest.approx([0.32 - (0.30 + 0.1 * 95 / 260)])


def test_problems_are_drawn_alike_for_all_arms() -> None:
    arm = arm_of(numbers(0, 1, 0, 0, 1), numbers(1, 2, 3, 4, 5))
    assert gain(arm, [arm], halves(5, resamples=100)) == pytest.approx(np.zeros(100))


def test_arms_that_are_alike_gain_nothing() -> None:
    """On average: what is the best by chance on one half is not on the other."""
    draw, gains = np.random.default_rng(1), []
    for _ in range(300):
        right = draw.binomial(2, 0.3, (5, 40)) / 2
        price = draw.normal([[100], [300], [600], [1000], [450]], 30, (5, 40))
        *votes, arm = (arm_of(*one) for one in zip(right, price, strict=True))
        gains.append(gain(arm, votes, halves(40)).item())
    assert abs(np.mean(gains)) < 2.5 * np.std(gains) / np.sqrt(300)


def test_intervals() -> None:
    arm, none = arm_of(numbers(*[0, 0, 1, 1] * 25), numbers(*[9] * 100)), constant(0, 9)
    low, high = middle(gain(arm, [arm_of(numbers(*[0] * 100), arm.tokens)], halves(100, resamples=2000)))
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65
    assert middle(gain(none, [none], halves(4, resamples=10))) == (0, 0)


def test_every_problem_is_asked_of_every_arm_with_every_seed() -> None:
    settings = Settings(seeds=(3, 4), problems=2, votes=(1, 4), first_budgets=(9,), growths=(2.0,), gym=("chain_sum",))
    asked = {key: body for key, body, _ in cells(settings)}
    expected = {
        f"chain_sum/{problem:04}/{seed}/{arm}" for problem in (0, 1) for seed in (3, 4) for arm in arms(settings)
    }
    assert asked.keys() == expected
    body = asked["chain_sum/0001/4/self_consistency of 4"]
    assert (body["seed"], body["strategy"]["params"]) == (4, {"samples": 4})


def test_a_report_has_means_over_problems_and_seeds(tmp_path: Path) -> None:
    settings = Settings(seeds=(1, 2), problems=2, votes=(1, 4), first_budgets=(9,), growths=(2.0,), gym=("chain_sum",))
    names = list(arms(settings))
    journal = Journal(tmp_path / "deepening.json", asdict(settings))
    journal.facts |= {"arms": names, "tasks": ["chain_sum"], "date": "", "command": "", "machine": {}}
    for key, body, _ in cells(settings):
        _, problem, _, name = key.split("/")
        # Of the arm of 4 samples, right for one of two problems with one of two seeds: a quarter.
        correct = name in names[2:] or (name == names[1] and problem == "0000" and body["seed"] == 2)
        tokens = 100 * (names.index(name) + 1)
        journal.entries[key] = {
            "right": correct,
            "tokens": tokens,
            "computed": 1,
            "seconds": 1,
            "triggers": 3,
            "cut": correct,
        }
    arm = Arm.of(journal.entries, "chain_sum", names[1])
    assert (list(arm.right), list(arm.tokens)) == ([0.5, 0], [200, 200])
    text = report(journal, tmp_path).read_text()
    assert "| self_consistency of 4 | 0.25 [0.03, 0.80] | 200 | 1 | 3.0 | 0.25 |  |  |" in text
    difference = "+0.75 [+0.75, +0.75]"
    row = f"| deepening from 9 by 2 | 1.00 [0.34, 1.00] | 300 | 1 | 3.0 | 1.00 | {difference} (takes more than any) |"
    assert f"{row} {difference} |" in text
    assert (tmp_path / "deepening.png").stat().st_size > 1000
