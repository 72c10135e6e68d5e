"""Problems of tasks, by name."""

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from trainer.tasks import SOLUTIONS, TaskError, problems, running_totals, scorer, steps_of


def test_a_task_of_reasoning_gym_with_its_settings() -> None:
    found = problems("gym:chain_sum:min_terms=4,max_terms=4,min_digits=2,max_digits=2", 5, seed=3)
    assert [one.id for one in found] == [f"3/{i}" for i in range(5)]
    assert found == problems("gym:chain_sum:min_terms=4,max_terms=4,min_digits=2,max_digits=2", 5, seed=3)
    task = "gym:chain_sum:min_digits=4,max_digits=4"
    near = [{one.question for one in problems(task, 50, seed)} for seed in (3, 4)]
    assert near[0].isdisjoint(near[1])
    for one in found:
        assert one.solution is not None
        lines = one.solution.splitlines()
        assert len(lines) == 3
        for line in lines:
            sum_, _, total = line.partition(" = ")
            first, sign, second = sum_.split()
            assert int(total) == int(first) + int(sign + second)
        assert lines[-1].endswith(f"= {one.answer}")
        assert one.worked.endswith(f"\nThe answer is {one.answer}.")
        score = scorer("gym:chain_sum:min_terms=4")
        assert score is not None and one.entry is not None
        assert score(one.answer, one.entry) == 1
        assert score(one.answer + "1", one.entry) < 1


@pytest.mark.parametrize(
    ("expression", "target", "steps"),
    [
        ("2 + 11 - 12", 1, "2 + 11 = 13\n13 - 12 = 1"),
        ("2*(65 - 100 + 88)", 106, "65 - 100 = -35\n-35 + 88 = 53\n2 * 53 = 106"),
        ("7/2 + 1/2", 4, "7 / 2 = 7/2\n1 / 2 = 1/2\n7/2 + 1/2 = 4"),
        ("27*(-2 + (5 - 55 + 62)/2)", 108, "5 - 55 = -50\n-50 + 62 = 12\n12 / 2 = 6\n-2 + 6 = 4\n27 * 4 = 108"),
        ("-(3 + 4)*2 + 20", 6, "3 + 4 = 7\n-7 * 2 = -14\n-14 + 20 = 6"),
        ("7/2 + 1", 4, None),  # The target is rounded.
    ],
)
def test_an_expression_is_worked_out(expression: str, target: int, steps: str | None) -> None:
    assert steps_of({"metadata": {"expression": expression, "target": target}}) == steps


@pytest.mark.parametrize(
    ("expression", "answer", "steps"),
    [
        ("-49 - -12", "-37", "-49 - -12 = -37"),
        ("5 + -7 - 3", "-5", "5 + -7 = -2\n-2 - 3 = -5"),
        ("5", "5", None),
        ("5 + 1", "7", None),
    ],
)
def test_a_sum_is_worked_out(expression: str, answer: str, steps: str | None) -> None:
    assert running_totals({"metadata": {"expression": expression}, "answer": answer}) == steps


@pytest.mark.parametrize("task", [*SOLUTIONS, "chain_sum:allow_negation=true"])
def test_solutions_come_to_the_answer(task: str) -> None:
    """And each line is right."""
    for one in problems(f"gym:{task}", 300, seed=5):
        assert one.entry is not None and one.solution is not None
        for line in one.solution.splitlines():
            sum_, _, total = line.partition(" = ")
            assert eval(sum_) == pytest.approx(float(Fraction(total)))
        assert Fraction(total) == Fraction(one.entry["metadata"].get("target", one.answer))


def test_settings_with_commas() -> None:
    (one,) = problems(
        'gym:countdown:min_numbers=3,max_numbers=3,operators=["+","-"],max_value=9,min_target=1,max_target=20',
        1,
        seed=1,
    )
    assert one.solution is not None
    assert not {"*", "/"} & set(one.solution)
    assert one.worked.endswith(f"The answer is {one.answer}.")


def test_a_task_without_solutions() -> None:
    (one,) = problems("gym:gcd", 1, seed=1)
    assert one.solution is None
    assert one.worked == f"The answer is {one.answer}."


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "2 + 2?", "answer": "4"}, ("2 + 2?", "4", None)),
        ({"question": "2 + 2?", "answer": "It is 4.\n#### 4"}, ("2 + 2?", "4", "It is 4.")),
        ({"Body": "I have 3.", "Question": "How many?", "Answer": 3.0}, ("I have 3. How many?", "3.0", None)),
        ({"problem": "x?", "solution": "so", "answer": 5}, ("x?", "5", "so")),
        ({"question": "x?", "solution": None, "answer": 5}, ("x?", "5", None)),
    ],
    ids=str,
)
def test_rows_of_a_file(tmp_path: Path, row: dict[str, object], expected: tuple[str, str, str | None]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    (one,) = problems(f"file:{path}", 1, seed=0)
    assert (one.question, one.answer, one.solution) == expected
    assert scorer(f"file:{path}") is None


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("chain_sum", "name gym:NAME"),
        ("gym:", "name gym:NAME"),
        ("gym:no_such_task", "no_such_task"),
        ("gym:chain_sum:min_terms=-3", "min_terms"),
        ("gym:chain_sum:min_terms=many", "chain_sum"),
        ("gym:chain_sum:no_such=3", "no_such"),
        ('gym:composite:datasets=[{"name":"chain_sum","weight":1,"config":{}}]', "composite"),
        ("gym:countdown:min_numbers=9,max_numbers=9,min_target=900,max_target=901", "countdown"),
        ("file:/no/such/file", "no/such"),
        ("file:/no/such/file:columns=a", "no option columns; there are question, answer, solution"),
    ],
)
def test_what_is_no_task(task: str, told: str) -> None:
    with pytest.raises(TaskError, match=told):
        problems(task, 1, seed=0)


def test_lines_that_python_would_part(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a\u2028b?", "answer": 1}\n\n{"question": "c?", "answer": 2}\n', encoding="utf-8")
    assert {one.question for one in problems(f"file:{path}", 5, seed=0)} == {"a\u2028b?", "c?"}


def test_columns_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "2 + 2?", "label": 4, "question": "no"}\n')
    (one,) = problems(f"file:{path}:question=text,answer=label", 1, seed=0)
    assert (one.question, one.answer, one.solution) == ("2 + 2?", "4", None)
    with pytest.raises(TaskError, match="row 0 has no labels, but"):
        problems(f"file:{path}:answer=labels", 1, seed=0)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            {"question": "Who?", "answer": {"text": ["Bob"], "answer_start": [1]}},
            "row 0: answer is .*one text or number",
        ),
        ({"question": "Who?", "answer": ["Bob", "Bobby"]}, "row 0: answer is .*one text or number"),
        ({"question": "Who?", "answer": " "}, "row 0 has an empty answer"),
        (5, "row 0 is no object"),
    ],
    ids=str,
)
def test_rows_that_would_teach_rubbish(line: object, told: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(TaskError, match=told):
        problems(f"file:{path}", 1, seed=0)


def test_a_scorer_knows_its_tasks_settings() -> None:
    """With its own defaults it would round to fewer places, and take what differs behind them for right."""
    task = "gym:decimal_arithmetic:min_num_decimal_places=8,max_num_decimal_places=9,precision=30"
    (one,) = problems(task, 1, seed=1)
    score = scorer(task)
    assert score is not None
    assert one.entry is not None
    assert score(one.answer, one.entry) == 1
    near = str(Decimal(one.answer) + Decimal("1e-7"))
    assert score(near, one.entry) < 1


def test_a_row_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(TaskError, match="row 0 has no question and answer"):
        problems(f"file:{path}", 1, seed=0)
