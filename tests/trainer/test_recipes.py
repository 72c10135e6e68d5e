"""ReVISE from a base model to a served checkpoint, by the command alone, killed on the way again and again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoTokenizer

from tests.engines import IM_END, save_bigram_model
from tests.servers import GENERATION_TOKENS, Server, running_server
from trainer.artefacts import Artefact, Log
from trainer.evaluate import ASKED, OUTCOMES, EvaluateSettings, evaluate
from trainer.grading import said
from trainer.measures import Outcomes
from trainer.models import Model
from trainer.problems import problems_of
from trainer.report import write_report
from trainer.rows import Row
from trainer.sampling import SampleSettings, sample
from trainer.serving import NAME, ServeSettings

SFT, SAMPLES = "sft/fit/model/model.safetensors", "verify/samples/samples.jsonl"
REQUESTS = "redraft_strategy_requests_total"

SETTINGS: Mapping[str, Any] = {
    "problems": 6,
    "stage_problems": 6,
    "held_out": 4,
    "sample.samples": 6,
    "sample.max_tokens": 8,
    "balanced": True,
    "serve.flags": ["--dtype", "float32", "--kv-cache-gib", "0.05", "--max-model-len", "256"],
}
FIT = {"epochs": 2, "batch": 4, "micro_batch": 4, "learning_rate": 1e-5, "save_minutes": 1e-6}
FLAGS: Any = SETTINGS["serve.flags"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It says 4 or 5 to whatever it is asked, and ends."""
    following = {"\n": {"4": 0.5, "5": 0.45}, "4": {IM_END: 0.97}, "5": {IM_END: 0.97}}
    return save_bigram_model(tmp_path_factory.mktemp("bigram"), following, "<|spare|>")


@pytest.fixture(scope="module")
def command(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    task = tmp_path_factory.mktemp("task") / "sums.jsonl"
    rows = [{"question": f"What is {i} + {4 - i}?", "answer": "4"} for i in range(-20, 20)]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"model": str(model), "task": f"file:{task}", **SETTINGS}
    settings |= {f"{stage}.{name}": value for stage in ("sft", "verify", "correct") for name, value in FIT.items()}
    changes = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    folder = tmp_path_factory.mktemp("run")
    return [sys.executable, "-m", "server.cli", "train", "revise", str(folder), *changes]


def kill_when(command: list[str], condition: Callable[[], bool]) -> None:
    """Ends the command, and nothing else, at once."""
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not condition():
        assert child.poll() is None, "it ended before"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()


def running(folder: Path) -> list[int]:
    """Processes whose command names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder) in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture(scope="module")
def run(command: list[str]) -> Path:
    """The folder of a whole run, whose trainings were killed, each at another point."""
    folder = Path(command[5])
    kill_when(command, lambda: any((folder / "sft/fit/steps").glob("checkpoint-*/trainer_state.json")))
    kill_when(command, lambda: (folder / "verify/fit/reference.jsonl").exists())
    before = {name: (folder / name).stat().st_mtime_ns for name in (SFT, SAMPLES)}
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert before == {name: (folder / name).stat().st_mtime_ns for name in (SFT, SAMPLES)}
    deadline = time.monotonic() + 20
    while running(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(folder)
    return folder


def test_no_problem_is_sampled_twice_or_held_out(run: Path) -> None:
    questions = {}
    for name in ("held-out", "sft/problems", "verify/problems", "correct/problems"):
        questions[name] = {line["question"] for line in Log(run / name / "problems.jsonl").read()}
    for stage in ("verify", "correct"):
        asked = [line["problem"] for line in Log(run / stage / "samples" / "samples.jsonl").read()]
        assert len(asked) == len(set(asked)) == 6
    assert len(set[str]().union(*questions.values())) == sum(map(len, questions.values())) == 4 + 3 * 6


def test_rows_of_the_stages(run: Path) -> None:
    """A wrong attempt stands in the prompt, a right one in the answer."""
    tokenizer: Any = AutoTokenizer.from_pretrained(run / "verify/fit/model")
    for stage in ("verify", "correct"):
        rows = [Row.of(line) for line in Log(run / stage / "rows" / "rows.jsonl").read()]
        kinds = Artefact.read(run / stage / "rows").facts["kinds"]
        assert kinds["right"] == kinds["wrong"] > 0
        for row in rows:
            prompt, chosen, rejected = (tokenizer.decode(part) for part in (row.prompt, row.chosen, row.rejected))
            assert prompt.startswith("<|im_start|>user\nWhat is ")
            if row.kind == "right":
                assert prompt.endswith("<|im_start|>assistant\n")
                assert (chosen, rejected) == (f"4{IM_END}", f"4<|refine|>{IM_END}")
            else:
                assert prompt.endswith("<|im_start|>assistant\n5")
                gold = "The answer is 4." if stage == "correct" else ""
                assert (chosen, rejected) == (f"<|refine|>{gold}{IM_END}", IM_END)


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[Server]:
    """The checkpoint, served as it is."""
    flags = ["--model", str(run / "correct/fit/model"), "--served-model-name", NAME, *FLAGS]
    with running_server(flags, model=NAME) as running:
        yield running


def test_the_checkpoint_refines(run: Path, model: Path, served: Server) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(run / "correct/fit/model")
    (refine,) = tokenizer.encode("<|refine|>")
    assert refine == len(AutoTokenizer.from_pretrained(model))
    with served.http as http:
        tokens = http.post("/tokenize", json={"model": NAME, "prompt": "<|refine|>"}).json()["tokens"]
    assert tokens == [refine]
    ask = served.client.chat.completions.create
    messages: Any = [{"role": "user", "content": "What is 2 + 2?"}]
    # It says itself which token it was taught.
    assert json.loads((run / "correct/fit/model/config.json").read_text())["refine_token"] == "<|refine|>"
    for strategy in ("revise", "revise+srgen"):
        answer = ask(model=served.alias(strategy), messages=messages, max_tokens=8, temperature=1.0, seed=1)
        assert answer.choices[0].message.content
        notes = answer.model_extra["strategy"]["notes"]  # type: ignore[index]
        verified = [note for note in notes if note["kind"] == "verified"]
        assert 0 < verified[0]["confidence"] < 1


def test_sampling_that_was_killed_goes_on(
    run: Path, served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.sampling.served", lambda *_: nullcontext(served.url))
    asked_of, model = Artefact.read(run / "held-out"), Model.fitted(Artefact.read(run / "correct/fit"))
    settings, serve = SampleSettings(samples=3, max_tokens=8), ServeSettings(at_once=2)
    whole = sample(tmp_path / "whole", model, asked_of, settings, serve, Console(quiet=True))
    lines = whole.log("samples.jsonl").path.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    killed = cut_after_two(whole, tmp_path / "killed", "samples.jsonl")
    before = served.settled().total(GENERATION_TOKENS)
    again = sample(killed, model, asked_of, settings, serve, Console(quiet=True))
    found = again.log("samples.jsonl")
    assert found.path.read_text().startswith(lines[0] + lines[1])
    # What it samples anew is what it would have been.
    by_problem = {line["problem"]: line for line in whole.log("samples.jsonl").read()}
    assert {line["problem"]: line for line in found.read()} == by_problem
    new = [token for line in found.read()[2:] for one in line["samples"] for token in one["token_ids"]]
    assert served.settled().total(GENERATION_TOKENS) - before == len(new)


def cut_after_two(whole: Artefact, folder: Path, name: str) -> Path:
    """What a kill would have left: two lines of a file, and half of a third."""
    folder.mkdir()
    lines = whole.log(name).path.read_text().splitlines(keepends=True)
    (folder / name).write_text(lines[0] + lines[1] + lines[2][:30])
    manifest = {key: value for key, value in whole.manifest.items() if key not in ("facts", "contents")}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    return folder


def test_an_evaluation_that_was_killed_goes_on(
    run: Path, served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluate.served", lambda *_: nullcontext(served.url))
    asked_of, model = Artefact.read(run / "held-out"), Model.fitted(Artefact.read(run / "correct/fit"))
    settings, serve = EvaluateSettings(samples=3, max_tokens=8), ServeSettings(at_once=2)

    def go_on(folder: Path) -> tuple[Artefact, float]:
        before = served.settled().total(REQUESTS)
        made = evaluate(folder, model, asked_of, settings, "math", serve, Console(quiet=True))
        return made, served.settled().total(REQUESTS) - before

    whole, requests = go_on(tmp_path / "whole")
    assert (whole.facts["problems"], requests) == (4, 8)
    lines = whole.log(ASKED).path.read_text().splitlines(keepends=True)
    again, requests = go_on(cut_after_two(whole, tmp_path / "killed", ASKED))
    assert requests == 4
    assert again.log(ASKED).path.read_text().startswith(lines[0] + lines[1])
    for made in (whole, again):
        outcomes = made.log(OUTCOMES).read()
        assert {line["problem"] for line in outcomes} == {one.id for one in problems_of(asked_of)}
        for line in outcomes:
            assert [len(line[way]["branches"]) for way in ("greedy", "sampled")] == [1, 3]
            for branch in (*line["greedy"]["branches"], *line["sampled"]["branches"]):
                assert all(attempt["right"] == ("4" in said(attempt["text"])) for attempt in branch)
                assert all(0 < one["confidence"] < 1 for one in branch if one["confidence"] is not None)
    assert Outcomes(outcomes).auroc().value == Outcomes(outcomes).auroc().value  # There are right and wrong ones.
    text = write_report(tmp_path / "report", "mine", {"whole": whole, "again": again}).read_text()
    assert "# mine: 4 held-out problems" in text


def test_all_that_is_thought_over(run: Path, served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.evaluate.served", lambda *_: nullcontext(served.url))
    asked_of, model = Artefact.read(run / "held-out"), Model.fitted(Artefact.read(run / "correct/fit"))
    settings = EvaluateSettings(samples=0, max_tokens=8, threshold=1)
    made = evaluate(tmp_path / "over", model, asked_of, settings, "math", ServeSettings(), Console(quiet=True))
    lines = made.log(OUTCOMES).read()
    assert len(lines) == 4
    for line in lines:
        (branch,) = line["greedy"]["branches"]
        assert "sampled" not in line
        # Whatever the model chose; of a second attempt that says nothing there is nothing to see.
        assert all(one["refine"] for one in branch if one["confidence"] is not None)
    assert any(line["greedy"]["branches"][0][0]["confidence"] is not None for line in lines)


def test_another_setting_is_told_apart(command: list[str], run: Path) -> None:
    done = subprocess.run([*command, "--set", "sample.samples=3"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "settings.samples is 6 there and 3 here" in " ".join(done.stderr.split())
    wrong = subprocess.run([*command, "--set", "sample.sampels=3"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "sample.sampels: Extra inputs are not permitted" in " ".join(wrong.stderr.split())
