"""Problems, their grading, and the sweep's arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.deepening import Settings, arms, bootstrap, column, report, rival
from benchmarks.journal import Journal
from benchmarks.problems import Problem, from_file, from_gym, right


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


def test_intervals() -> None:
    low, high = bootstrap(np.array([0.0, 1.0] * 50))
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65
    assert bootstrap(np.ones(9)) == (1.0, 1.0)


def test_the_rival_has_about_as_many_tokens_and_a_report_is_written(tmp_path: Path) -> None:
    settings = Settings(votes=(1, 4), first_budgets=(9,), growths=(2.0,), gym=("chain_sum",))
    names = list(arms(settings))
    journal = Journal(
        tmp_path / "deepening.json", {"quick": False, "problems": 2, "tokens": 9, "temperature": 1, "seed": 1}
    )
    journal.facts |= {"arms": names, "tasks": ["chain_sum"], "date": "", "command": "", "machine": {}}
    for position, name in enumerate(names):
        for number in range(2):
            entry = {"right": (position + number) % 2 == 0, "tokens": 100 * (position + 1), "computed": 1, "seconds": 1}
            journal.entries[f"chain_sum/{number:04}/{name}"] = entry
    assert list(column(journal.entries, "chain_sum", names[0], "right")) == [1, 0]
    assert rival(journal.entries, "chain_sum", names[:2], 350) == "self_consistency of 4"
    text = report(journal, tmp_path).read_text()
    assert "| deepening from 9 by 2 | 0.50" in text
    assert (tmp_path / "deepening.png").stat().st_size > 1000
