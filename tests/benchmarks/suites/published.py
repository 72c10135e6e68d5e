"""Rows as suites are published, with what is asked, a right answer and a wrong one."""

from typing import Any

PUBLISHED: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "gsm8k": ({"question": "How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"}, "How many?", "It is 7.", "It is 8."),
    "math500": (
        {
            "problem": "Convert the point $(0,3)$ to polar coordinates.",
            "solution": r"We have $r = 3$. So it is $\boxed{\left( 3, \frac{\pi}{2} \right)}.$",
            "answer": r"\left( 3, \frac{\pi}{2} \right)",
            "subject": "Precalculus",
            "level": 2,
            "unique_id": "test/precalculus/807.json",
        },
        "Convert the point $(0,3)$ to polar coordinates.",
        r"So it is $\boxed{(3, \pi/2)}$.",
        r"So it is $\boxed{(3, \pi/3)}$.",
    ),
    "aime24": (
        {"id": 60, "problem": "Find $t$.", "solution": "...", "answer": "204", "url": "x", "year": "2024"},
        "Find $t$.",
        r"Thus \boxed{204}",
        r"Thus \boxed{024}",
    ),
    "aime25": (
        {"problem": "Find the sum of all $b > 9$.", "answer": "70", "id": "0"},
        "Find the sum of all $b > 9$.",
        "The answer is 70.",
        "The answer is 71.",
    ),
    "amc": (
        {"id": 0, "answer": 27.0, "question": "How many miles?", "url": "x"},
        "How many miles?",
        "The answer is 27 miles",
        "The answer is 2.7",
    ),
    "svamp": (
        {"ID": "chal-1", "Body": "Jack had 8 pens", "Question": "How many are left?", "Answer": 2.0, "Type": "x"},
        "Jack had 8 pens How many are left?",
        "**2** are left. The answer is 2.",
        "The answer is 3.",
    ),
}
AREA = {
    "task_id": "HumanEval/7",
    "prompt": 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """ Their sum.\n    """\n',
    "entry_point": "total",
    "canonical_solution": "    return sum(numbers)\n",
    "test": "\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
}
