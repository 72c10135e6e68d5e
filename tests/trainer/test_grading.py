"""Right and wrong, and that what is graded never runs."""

import functools
import time
from pathlib import Path
from typing import Any

import pytest

from trainer import grading
from trainer.grading import check, graded, grader_of, is_formula, right, said
from trainer.tasks import Problem, TaskError, problems, scorer

FOUR = Problem("1", "2 + 2?", "4")
COUNTDOWN = "gym:countdown:min_numbers=3,max_numbers=3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 + 4 = 7\nThe answer is 7.", ["7"]),
        ("The answer is 3. Wait, the answer is 4.\n", ["4"]),
        (r"so \boxed{12}", ["12"]),
        (r"The answer is \boxed{\frac{1}{2}}. That is all.", [r"\frac{1}{2}"]),
        (r"\boxed{1}? No, the answer is 2.", ["2"]),
        ("First line\n\n 42 \n", ["First line\n\n 42", "42"]),
        ("**Answer: 5**", ["5"]),
        ("", [""]),
        ("answer is $x+1$", ["x+1"]),
        ("The answer is 1 2\n3 4.", ["1 2\n3 4", "1 2"]),
        ("The answer is 4.\nBye!", ["4.\nBye!", "4"]),
    ],
)
def test_the_last_answer_in_a_text(text: str, expected: list[str]) -> None:
    assert said(text) == expected


@pytest.mark.parametrize(
    ("text", "grader", "expected"),
    [
        ("The answer is 4.", "math", True),
        ("The answer is 4.0", "math", True),
        ("The answer is 8/2", "math", True),
        ("The answer is 5", "math", False),
        ("The answer is", "math", False),
        ("So it is 4.", "math", True),
        ("It is not 4. It is 5.", "math", False),
        ("The answer is 4 apples.", "math", True),
        ("The answer is 2 + 2 = 4.", "math", True),
        ("The answer is x = 4", "math", True),
        ("The answer is 4, for 2 and 2 are 4. That is all.", "math", True),
        ("The answer is $4$ because 5 is one more", "math", True),
        ("The answer is 4.0", "exact", False),
        ("THE ANSWER IS 4", "exact", True),
    ],
)
def test_graders(text: str, grader: Any, expected: bool) -> None:
    assert right(text, FOUR, grader, None) == expected


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("5", "The answer is 1, 2, 3, 4, 5."),
        ("5", "The answer is 6, no, 5"),
        ("5", "The answer is 4 = 5"),
        ("5", "The answer is not 5"),
        ("5", "5 is wrong"),
        ("5", "The answer is 4 or 5"),
        ("5", "The answer is 6. Or 5."),
        ("5", "The answer is 500%"),
        ("2020-10-12", "The answer is 1998"),
        ("2020-10-12", "The answer is 2020-12-10"),
        ("10:30", "The answer is 30:10"),
        ("room 12B", "The answer is 12B room"),
        ("[1, 2, 3]", "The answer is {1, 2, 3}"),
        ("(1, 2)", "The answer is [1, 2]"),
        ("2", r"The answer is $\pm 2$"),
        ("", "The answer is ."),
        ("", ""),
    ],
)
def test_naming_the_right_one_too_is_wrong(wanted: str, text: str) -> None:
    assert not right(text, Problem("1", "?", wanted), "math", None)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("5", "So 2 + 3 is 5. The answer is 5, which is odd."),
        ("5", "It is not 4. It is 5."),
        ("40", "The answer is 40%"),
        ("1234", "The answer is 1,234 apples"),
        (r"\frac{1}{2}", "The answer is 0.5"),
        ("(3, 4)", "The answer is (3,4)."),
        (r"\{1, 2\}", r"The answer is $\{2, 1\}$"),
        ("1, 2", "The answer is 2 and 1"),
        ("2020-10-12", "The answer is 2020-10-12."),
        ("no", "The answer is No."),
        ("x^2 + 2x", "The answer is $x(x + 2)$"),
        ("sqrt(2)/2", "The answer is 1/sqrt(2)"),
    ],
)
def test_the_right_one_in_other_words(wanted: str, text: str) -> None:
    assert right(text, Problem("1", "?", wanted), "math", None)


def test_reasoning_gyms_own() -> None:
    (one,) = problems(COUNTDOWN, 1, seed=1)
    assert grader_of(COUNTDOWN) == "gym"
    score = scorer(COUNTDOWN)
    assert one.entry is not None
    expression = one.entry["metadata"]["expression"]
    assert right(f"The answer is {expression}", one, "gym", score)
    assert not right("The answer is 1 + 1", one, "gym", score)


def spelt(text: str, between: str = "") -> str:
    """A string without quotes."""
    return "+".join(f"chr{between}({ord(letter)})" for letter in text)


CODE = [
    "__import__('os').mkdir('{path}')",
    "open('{path}', 'w')",
    "[open('{path}', 'w')]",
    "(lambda: open('{path}', 'w'))()",
    "(open)('{path}', 'w')",
    "[open][0]('{path}', 'w')",
    "f\"{open('{path}', 'w')}\"",
    "\uff4fpen('{path}', 'w')",
    "open\\\n('{path}', 'w')",
    "(open#\n('{path}', 'w'))",
    "exec({spelt})",
    "exec\\\n({spelt_apart})",
    "sqrt(open('{path}', 'w'))",
]


@pytest.mark.parametrize("task", ["countdown", "polynomial_multiplication", "simple_integration", "n_queens", "codeio"])
def test_no_answer_is_run(task: str, tmp_path: Path) -> None:
    """In the processes that grade, whatever the scorer does with it."""
    name, path = f"gym:{task}", tmp_path / "made"
    (one,) = problems(name, 1, seed=1)
    code = f"open('{path}', 'w')"
    forms = {"{path}": str(path), "{spelt}": spelt(code), "{spelt_apart}": spelt(code, "\\\n")}
    answers = [functools.reduce(lambda text, form: text.replace(*form), forms.items(), one) for one in CODE]
    texts = [(f"The answer is {answer}", one) for answer in answers]
    assert list(graded([*texts, (one.worked, one)], "gym", name)) == [False] * len(texts) + [True]
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3*(4 + 5)/2 - x", True),
        ("sin(x)**2 + sqrt(2)*exp(-x)", True),
        ("0x1f << 2", True),
        ("exit", True),  # A name, of which nothing comes.
        ("exit()", False),
        ("(exit)()", False),
        ("().__class__", False),
        ("1 .real", False),
        ("[1]", False),
        ("'a'", False),
        ("sin(x=1)", False),
        ("x if x else y", False),
        ("x := 1", False),
        ("3 +", False),
        ("(" * 500, False),
    ],
)
def test_formulas(text: str, expected: bool) -> None:
    assert is_formula(text) == expected


@pytest.mark.parametrize(("task", "right_ones"), [("bitwise_arithmetic", 2), ("string_insertion", 2)])
def test_scorers_that_evaluate_still_tell(task: str, right_ones: int) -> None:
    made = problems(f"gym:{task}", 2, seed=1)
    texts = [(f"So: {one.worked}", one) for one in made] + [("The answer is 99", one) for one in made]
    assert list(graded(texts, "gym", f"gym:{task}")) == [True] * right_ones + [False] * 2
    check(made, "gym", f"gym:{task}")


@pytest.mark.parametrize(
    ("answer", "grader"), [("U.S.", "exact"), ("$5", "exact"), ("1 2\n3 4", "exact"), ("yes, always", "math")]
)
def test_a_problems_own_answer_is_right(answer: str, grader: Any) -> None:
    problem = Problem("1", "?", answer, "First.\nThen.")
    assert right(problem.worked, problem, grader, None)
    assert not right("The answer is no.", problem, grader, None)


@pytest.mark.parametrize(
    ("wanted", "answer", "expected"),
    [
        ("Paris", "Pairs", False),
        ("no", "on", False),
        ("on", "no", False),
        ("silent", "listen", False),
        ("New York", "Kew Yron", False),
        ("no", "on 1", False),
        ("Paris", r"\text{Pairs}", False),
        ("Paris", "paris", True),
        ("Paris", "**Paris**.", True),
        ("New York", "new\n york", True),
        ("Paris", r"\boxed{\text{Paris}}", True),
        ("(ab, cd)", "(AB,CD)", True),
        # Formulas are none:
        ("x", "x", True),
        ("x", "y", False),
        ("x+y", "y + x", True),
        ("ab", "ab", True),
        ("ax + b", "b + xa", True),
        ("y = ax", "y = xa", True),
        (r"\pi", r"\pi", True),
        (r"\sqrt{2}", "2^{1/2}", True),
        ("sqrt(x)", r"\sqrt{x}", True),
        ("2x", "x+x", True),
        ("a/b", r"\frac{a}{b}", True),
        ("(a, b)", "(a,b)", True),
    ],
)
def test_words_are_no_products_of_their_letters(wanted: str, answer: str, expected: bool) -> None:
    assert right(f"The answer is {answer}", Problem("1", "?", wanted), "math", None) == expected


def test_a_grader_that_cannot_tell_is_refused() -> None:
    check([FOUR], "math", "file:a.jsonl")
    with pytest.raises(TaskError, match="there is no grader nonsense"):
        check([FOUR], "nonsense", "file:a.jsonl")
    with pytest.raises(TaskError, match=r"file:a\.jsonl is none"):
        check([FOUR], "gym", "file:a.jsonl")
    (one,) = problems(COUNTDOWN, 1, seed=1)
    with pytest.raises(TaskError, match="takes 1 of 2 of the task's own answers for wrong, '1 \\+ 1' for one"):
        check([one, Problem("1", "?", "1 + 1", None, one.entry)], "gym", COUNTDOWN)


def test_what_takes_for_ever_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """And holds nobody else up."""
    monkeypatch.setattr(grading, "SECONDS", 1.0)
    (one,) = problems(COUNTDOWN, 1, seed=1)
    assert one.entry is not None
    good = f"The answer is {one.entry['metadata']['expression']}"
    begin = time.monotonic()
    texts = [(good, one), ("The answer is 9**9**9**9", one), (good, one), ("", one)]
    assert list(graded(texts, "gym", COUNTDOWN, processes=1)) == [True, False, True, False]
    assert time.monotonic() - begin < 60
