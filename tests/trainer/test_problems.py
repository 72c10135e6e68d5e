"""Which problems are drawn, and which are the same."""

import json
from pathlib import Path

import pytest

from trainer.artefacts import Artefact, ArtefactError
from trainer.problems import check_held_out, draw_problems, problems_of
from trainer.tasks import Problem, TaskError

SMALL = (
    'gym:countdown:min_numbers=3,max_numbers=3,min_value=1,max_value=6,min_target=1,max_target=18,operators=["+","-"]'
)


def asked(artefact: Artefact) -> list[tuple[list[int], int]]:
    """What problems of countdown ask for: the numbers, and the target."""
    entries = [one.entry["metadata"] for one in problems_of(artefact) if one.entry is not None]
    return [(sorted(entry["numbers"]), entry["target"]) for entry in entries]


def test_no_problem_is_there_twice_in_other_words(tmp_path: Path) -> None:
    first = draw_problems(tmp_path / "first", SMALL, 40, 1)
    other = draw_problems(tmp_path / "other", SMALL, 40, 2, {"first": first})
    found = [json.dumps(one) for one in (*asked(first), *asked(other))]
    assert len(found) == len(set(found)) == 80
    # By their words they would all be different: there are several, and any order of the numbers.
    drawn = draw_problems(tmp_path / "more", SMALL, 300, 3)
    wordings = {one.question.split()[0] for one in problems_of(drawn)}
    assert len(wordings) > 1
    assert drawn.facts["problems"] < 300, "there are no more"


def test_questions_are_the_same_whatever_their_case_and_space() -> None:
    assert Problem("1", "What  is\n2 + 2?", "4").key == Problem("2", "what is 2 + 2?", "four").key
    assert Problem("1", "2 + 2", "4").key != Problem("1", "2 + 3", "5").key


def test_none_is_left(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i % 4}?", "answer": "x"}) + "\n" for i in range(40)))
    every = draw_problems(tmp_path / "all", f"file:{path}", 9, 0)
    assert sorted(one.question for one in problems_of(every)) == ["0?", "1?", "2?", "3?"]
    with pytest.raises(TaskError, match="no problem beside the 4 that all took"):
        draw_problems(tmp_path / "more", f"file:{path}", 1, 0, {"all": every})


def made(folder: Path, step: str, **parents: Artefact) -> Artefact:
    return Artefact.open(folder, step, {}, parents).finish()


def test_what_a_model_has_learnt_from_measures_nothing(tmp_path: Path) -> None:
    held_out = draw_problems(tmp_path / "held", SMALL, 30, 1)
    learnt = draw_problems(tmp_path / "learnt", SMALL, 30, 2)
    fresh = draw_problems(tmp_path / "fresh", SMALL, 30, 2, {"held": held_out})
    common = {str(one) for one in asked(held_out)} & {str(one) for one in asked(learnt)}
    first = made(tmp_path / "fit", "fit", rows=made(tmp_path / "rows", "rows", problems=learnt))
    second = made(tmp_path / "again", "fit", model=first, rows=made(tmp_path / "new", "rows", problems=fresh))
    for model in (first, second):
        with pytest.raises(ArtefactError, match=f"{len(common)} of 30 problems of .*held are among those .*learnt"):
            check_held_out(held_out, model)
    clean = made(tmp_path / "clean", "fit", rows=made(tmp_path / "clean-rows", "rows", problems=fresh))
    assert check_held_out(held_out, clean) == []
    assert check_held_out(held_out, None) == []


def test_where_nobody_can_tell_what_a_model_has_learnt_from(tmp_path: Path) -> None:
    held_out = draw_problems(tmp_path / "held", SMALL, 30, 1)
    learnt = draw_problems(tmp_path / "learnt", SMALL, 30, 2)
    rows = made(tmp_path / "rows", "rows", problems=learnt)
    model = made(tmp_path / "fit", "fit", rows=rows)
    learnt.folder.rename(tmp_path / "moved")
    assert check_held_out(held_out, model) == [f"problems of {tmp_path / 'fit' / '..' / 'rows'}"]
    # Another one in its place is none of its parents.
    draw_problems(learnt.folder, SMALL, 30, 9)
    assert len(check_held_out(held_out, model)) == 1


@pytest.mark.parametrize("task", ["gcd", "lcm"])
def test_the_same_numbers_in_another_order(task: str) -> None:
    one, other = ({"metadata": {"source_dataset": task, "numbers": numbers}} for numbers in ([9, 12], [12, 9]))
    assert Problem("1", "of 9 and 12?", "3", entry=one).key == Problem("2", "of 12 and 9?", "3", entry=other).key
