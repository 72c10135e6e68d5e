"""Folders that say how they were made, and lines that are there once they are written."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.artefacts import Artefact, ArtefactError, Log


def test_a_finished_step_is_found_again(tmp_path: Path) -> None:
    made = Artefact.open(tmp_path / "a", "sample", {"seed": 1, "model": {"name": "m"}})
    assert not made.complete
    made.finish(samples=3)
    found = Artefact.open(tmp_path / "a", "sample", {"seed": 1, "model": {"name": "m"}})
    assert found.complete
    assert found.facts == {"samples": 3}
    assert found.digest == made.digest
    # Of what grades, too, whose verdicts change from one version to the next.
    wanted = {"torch", "tokenizers", "datasets", "math-verify", "latex2sympy2_extended", "sympy"}
    assert wanted <= found.manifest["versions"][0].keys()


def test_another_step_is_told_what_differs(tmp_path: Path) -> None:
    parent = Artefact.open(tmp_path / "p", "problems", {"seed": 1}).finish()
    other = Artefact.open(tmp_path / "q", "problems", {"seed": 2}).finish()
    Artefact.open(tmp_path / "a", "sample", {"seed": 1, "of": {"top_p": 1.0}}, {"problems": parent})
    with pytest.raises(ArtefactError, match=r"settings\.of\.top_p is 1\.0 there and 0\.9 here"):
        Artefact.open(tmp_path / "a", "sample", {"seed": 1, "of": {"top_p": 0.9}}, {"problems": parent})
    with pytest.raises(ArtefactError, match=r"parents\.problems is"):
        Artefact.open(tmp_path / "a", "sample", {"seed": 1, "of": {"top_p": 1.0}}, {"problems": other})
    with pytest.raises(ArtefactError, match="step is 'sample' there and 'grade' here"):
        Artefact.open(tmp_path / "a", "grade", {"seed": 1, "of": {"top_p": 1.0}}, {"problems": parent})


def test_a_parent_must_be_whole(tmp_path: Path) -> None:
    parent = Artefact.open(tmp_path / "p", "problems", {})
    with pytest.raises(ArtefactError, match="the problems of sample, is not complete"):
        Artefact.open(tmp_path / "a", "sample", {}, {"problems": parent})


def test_what_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="holds something else"):
        Artefact.open(tmp_path, "sample", {})
    with pytest.raises(ArtefactError, match="is no artefact"):
        Artefact.read(tmp_path)
    Artefact.open(tmp_path / "a", "rows", {}).finish()
    with pytest.raises(ArtefactError, match="was made by rows, and problems is wanted"):
        Artefact.read(tmp_path / "a", "problems")


def test_parents_are_found_where_they_were(tmp_path: Path) -> None:
    parent = Artefact.open(tmp_path / "run" / "p", "problems", {}).finish()
    Artefact.open(tmp_path / "run" / "b" / "c", "sample", {}, {"of": parent}).finish()
    (tmp_path / "run").rename(tmp_path / "moved")
    child = Artefact.read(tmp_path / "moved" / "b" / "c")
    found = child.parent("of")
    assert found is not None
    assert found.digest == child.manifest["parents"]["of"]
    assert child.parent("other") is None


def test_what_came_of_a_step_is_a_part_of_what_is_made_of_it(tmp_path: Path) -> None:
    parent = Artefact.open(tmp_path / "p", "sample", {})
    parent.log("lines.jsonl").add({"a": 1})
    parent.finish()
    Artefact.open(tmp_path / "a", "grade", {}, {"samples": parent}).finish()
    assert Artefact.open(tmp_path / "a", "grade", {}, {"samples": Artefact.read(tmp_path / "p")}).complete
    again = Artefact.open(tmp_path / "q", "sample", {})
    again.log("lines.jsonl").add({"a": 2})
    with pytest.raises(ArtefactError, match=r"parents\.samples is"):
        Artefact.open(tmp_path / "a", "grade", {}, {"samples": again.finish()})


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from trainer.artefacts import Artefact;"
        f"Artefact.open(Path({str(tmp_path / 'a')!r}), 'sample', {{}}); print('there', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
        with pytest.raises(ArtefactError, match="is being made by another process"):
            Artefact.open(tmp_path / "a", "sample", {})
        other.kill()
        other.wait()
    assert not Artefact.open(tmp_path / "a", "sample", {}).complete
    assert not Artefact.open(tmp_path / "a", "sample", {}).complete  # The same process may look again.


@pytest.mark.parametrize("left", [".manifest.json.new", ".lock"])
def test_a_run_killed_before_its_first_manifest(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text('{"step": ')
    assert not Artefact.open(tmp_path, "sample", {}).complete


def test_half_a_line_is_written_anew(tmp_path: Path) -> None:
    log = Log(tmp_path / "lines.jsonl")
    assert log.begin() == []
    log.add({"a": "é"})
    with log.path.open("a") as file:
        file.write('{"b": ')
    assert log.read() == [{"a": "é"}]
    assert log.begin() == [{"a": "é"}]
    log.add({"c": 3})
    assert log.read() == [{"a": "é"}, {"c": 3}]
    log.path.write_bytes('{"only": "é'.encode()[:-1])
    assert log.read() == []
    assert log.begin() == []
    log.add({"d": 4})
    assert log.read() == [{"d": 4}]


def test_a_parent_that_was_changed_is_refused(tmp_path: Path) -> None:
    parent = Artefact.open(tmp_path / "p", "sample", {})
    parent.log("lines.jsonl").add({"a": 1})
    parent.finish()
    begun = Artefact.open(tmp_path / "begun", "grade", {}, {"samples": parent})
    done = Artefact.open(tmp_path / "done", "grade", {}, {"samples": parent}).finish()
    parent.log("lines.jsonl").add({"a": 2})
    for folder in (tmp_path / "new", begun.folder):
        with pytest.raises(ArtefactError, match="p was changed since it was made"):
            Artefact.open(folder, "grade", {}, {"samples": parent})
    # What was made of it before is as good as it was.
    assert Artefact.open(done.folder, "grade", {}, {"samples": parent}).complete
