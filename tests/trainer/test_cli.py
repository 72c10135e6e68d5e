"""The commands: settings, steps one by one, and what they say when something is wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from transformers import AutoTokenizer
from typer.testing import CliRunner

from trainer.artefacts import Artefact, ArtefactError, Log
from trainer.cli import SettingsError, app, settings_of
from trainer.models import Model, template_of

END, REFINE = 257, 259
"""Of the tiny tokenizer, and what a new token gets."""


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = 1.0
    name: str = "a"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner = Inner()
    flags: tuple[str, ...] = ()


def test_changes_go_over_a_file(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text('flags = ["--x"]\n[inner]\nrate = 2\nname = "file"\n')
    found = settings_of(Outer, config, ["inner.rate=1e-3"])
    assert (found.inner.rate, found.inner.name, found.flags) == (1e-3, "file", ("--x",))
    assert settings_of(Outer, None, ["inner.name=a word", 'flags=["a", "b"]']).inner.name == "a word"


@pytest.mark.parametrize(
    ("changes", "told"),
    [(["inner"], "KEY=VALUE"), (["inner.rates=1"], r"inner\.rates: Extra"), (["inner.rate=x"], r"inner\.rate: Input")],
)
def test_a_wrong_setting_is_named(changes: list[str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        settings_of(Outer, None, changes)


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("a = ")
    with pytest.raises(SettingsError, match=r"a\.toml"):
        settings_of(Outer, tmp_path / "a.toml", [])


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def test_steps_one_by_one(tmp_path: Path, tiny_model: Path) -> None:
    problems, more, rows = tmp_path / "problems", tmp_path / "more", tmp_path / "rows"
    task = "gym:chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1"
    assert "problems 20" in run("problems", problems, "--task", task, "--count", 20)
    run("problems", more, "--task", task, "--count", 20, "--seed", 1, "--without", problems)
    asked = [{line["question"] for line in Log(one / "problems.jsonl").read()} for one in (problems, more)]
    assert len(asked[0]) == 20
    assert asked[0].isdisjoint(asked[1])
    assert "kinds {'gold': 20}" in run("pairs", rows, "--problems", problems, "--stage", "gold", "--model", tiny_model)
    assert Artefact.read(rows).complete
    line = Log(rows / "rows.jsonl").read()[0]
    assert line["chosen"][-1] == 257  # Its end.
    # Again, it is there.
    run("pairs", rows, "--problems", problems, "--stage", "gold", "--model", tiny_model)


def test_samples_become_rows(tmp_path: Path, tiny_model: Path) -> None:
    """With the tokenizer of the model that they are of, and parted at its token."""
    task = tmp_path / "task.jsonl"
    task.write_text('{"question": "2 + 2?", "answer": 4}\n')
    problems, samples = tmp_path / "problems", tmp_path / "samples"
    run("problems", problems, "--task", f"file:{task}")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    said = [
        [*tokenizer.encode("5"), REFINE, *tokenizer.encode("4"), END],
        [*tokenizer.encode("4"), END],
        tokenizer.encode("5"),
    ]
    answers = [{"token_ids": ids, "finish_reason": "stop" if ids[-1] == END else "length"} for ids in said]
    made = Artefact.open(samples, "sample", {}, {"problems": Artefact.read(problems)})
    made.log("samples.jsonl").add({"problem": "0", "prompt": [1], "samples": answers})
    made.finish(model=str(tiny_model))

    def rows(stage: str, grades: Path, code: int = 0) -> str:
        given = ("--problems", problems, "--grades", grades, "--stage", stage, "--model", tiny_model)
        return run("pairs", tmp_path / f"{stage}-{grades.name}", *given, code=code)

    whole, parted = tmp_path / "whole", tmp_path / "parted"
    run("grade", whole, "--samples", samples, "--problems", problems)
    run("grade", parted, "--samples", samples, "--problems", problems, "--token", "<|refine|>")
    assert [one["right"] for one in Log(parted / "grades.jsonl").read()[0]["samples"]] == [
        [False, True],
        [True],
        [False],
    ]
    assert "does not part attempts at <|refine|>" in rows("correct", whole, code=1)
    assert "kinds {'right': 1, 'wrong': 1}" in rows("correct", parted)
    found = {row["kind"]: row for row in Log(tmp_path / "correct-parted" / "rows.jsonl").read()}
    assert found["right"]["chosen"] == [*tokenizer.encode("4"), END]
    assert found["wrong"]["prompt"] == [1, *tokenizer.encode("5")]
    assert found["wrong"]["chosen"] == [REFINE, *tokenizer.encode("The answer is 4."), END]
    assert Artefact.read(tmp_path / "correct-parted").settings["token"] == "<|refine|>"
    assert "kinds {'right': 1}" in rows("own", parted)


def test_a_base_model_without_a_chat_template(tmp_path: Path, tiny_model: Path) -> None:
    base, template, problems = tmp_path / "base", tmp_path / "chat.jinja", tmp_path / "problems"
    shutil.copytree(tiny_model, base)
    (base / "chat_template.jinja").unlink()
    template.write_text(
        "{% for turn in messages %}{{ turn.role[0] }}:{{ turn.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}"
    )
    run("problems", problems, "--task", "gym:gcd", "--count", 2)

    def rows(folder: str, *more: object, code: int = 0) -> str:
        given = ("--problems", problems, "--stage", "gold", "--model", base, *more)
        return run("pairs", tmp_path / folder, *given, code=code)

    assert "has no chat template: name a Jinja file" in rows("rows", code=1)
    assert "there is no chat template" in rows("rows", "--chat-template", tmp_path / "none.jinja", code=1)
    assert "kinds {'gold': 2}" in rows("rows", "--chat-template", template)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    line = Log(tmp_path / "rows" / "rows.jsonl").read()[0]
    assert tokenizer.decode(line["prompt"]).startswith("u:Find the Greatest Common Divisor")
    assert tokenizer.decode(line["prompt"]).endswith("<|im_end|>a:")
    # Rows that another template wrote are others.
    template.write_text(template.read_text() + " ")
    assert "settings.chat_template is" in rows("rows", "--chat-template", template, code=1)
    fit = Artefact.open(tmp_path / "fit", "fit", {}).finish().folder
    assert "takes no other" in rows("rows", "--model", fit, "--chat-template", template, code=1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("problems", "{out}", "--task", "nothing"), "is no task"),
        (("problems", "{out}", "--task", "file:/no/such"), "/no/such"),
        (("pairs", "{out}", "--problems", "{here}", "--stage", "half"), "it is gold, own, verify or correct"),
        (("pairs", "{out}", "--problems", "{here}", "--stage", "verify"), "takes --grades"),
        (("grade", "{out}", "--samples", "{here}", "--problems", "{here}"), "is no artefact"),
        (("sft", "{out}"), "task: Field required"),
        (("revise", "{out}", "--set", "task=gym:gcd", "--set", "model=/no/such"), "/no/such"),
        (("report", "{out}", "nothing"), "NAME=FOLDER"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_a_line(
    arguments: tuple[str, ...], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [one.replace("{out}", str(tmp_path / "out")).replace("{here}", str(tmp_path)) for one in arguments]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 1
    assert told in " ".join((done.output + capfd.readouterr().err).split())
    assert "Traceback" not in done.output


def test_a_checkpoint_is_known_by_what_is_served(tmp_path: Path) -> None:
    """As the commands print it: so nothing is measured on what it has learnt from."""
    problems, rows, fit = tmp_path / "problems", tmp_path / "rows", tmp_path / "run" / "fit"
    run("problems", problems, "--task", "gym:gcd", "--count", 2)
    learnt = Artefact.open(rows, "rows", {}, {"problems": Artefact.read(problems)}).finish()
    made = Artefact.open(fit, "fit", {}, {"rows": learnt})
    (fit / "model").mkdir()
    (fit / "model" / "config.json").write_text("{}")
    made.finish()
    for model in (fit, fit / "model"):
        assert Model.of(str(model)).artefact == made
        said = run("evaluate", tmp_path / "out", "--problems", problems, "--model", model, code=1)
        assert "2 of 2 problems" in said and "learnt from" in said


@pytest.mark.parametrize(("token", "taught"), [("<|refine|>", True), ("a", False), ("<|im_end|>", False)])
def test_tokens_that_can_be_taught(token: str, taught: bool, tiny_model: Path) -> None:
    if taught:
        assert template_of(Model.of(str(tiny_model)), token).id_of(token) == REFINE
    else:
        with pytest.raises(ArtefactError, match="no token that can be taught"):
            template_of(Model.of(str(tiny_model)), token)


def test_an_evaluation_names_the_token_that_is_missing(tmp_path: Path, tiny_model: Path) -> None:
    """Before anything is served."""
    problems = tmp_path / "problems"
    run("problems", problems, "--task", "gym:gcd", "--count", 2)
    said = run("evaluate", tmp_path / "out", "--problems", problems, "--model", tiny_model, code=1)
    assert "has no token '<|refine|>' to refine with" in said


def test_an_adapter_alone_is_no_model(tmp_path: Path) -> None:
    problems, adapter = tmp_path / "problems", tmp_path / "adapter"
    run("problems", problems, "--task", "gym:gcd", "--count", 2)
    made = Artefact.open(adapter, "fit", {})
    (adapter / "model").mkdir()
    (adapter / "model" / "adapter_config.json").write_text("{}")
    made.finish()
    out = tmp_path / "out"
    for step in ("sample", "evaluate"):
        assert "is an adapter, and no model" in run(step, out, "--problems", problems, "--model", adapter, code=1)


def test_a_dataset_in_a_folder(tmp_path: Path) -> None:
    """As any of the hub's, by its name."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(5)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("problems", tmp_path / "problems", "--task", f"hub:{folder}", "--count", 3)
    found = Log(tmp_path / "problems" / "problems.jsonl").read()
    assert len(found) == len({one["question"] for one in found}) == 3
    assert {(one["question"], one["answer"]) for one in found} < {(row["question"], row["answer"]) for row in rows}
