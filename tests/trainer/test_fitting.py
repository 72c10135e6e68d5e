"""Losses, masks, new tokens and resumption of real trl trainings, on a tiny random model."""

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from server.models.adapters import find_adapters
from tests.trainer.processes import watched
from trainer import fitting
from trainer.artefacts import Log, write_whole
from trainer.fitting import _latest, main
from trainer.rows import Row
from trainer.settings import FitSettings
from trainer.steps import _environment

END = 257
"""<|im_end|> of the tiny tokenizer."""
WAY: dict[str, Any] = {"batch": 4, "micro_batch": 2, "learning_rate": 1e-3, "warmup": 0.0}


SFT = [Row((1, 2, 3, 4), (5, 6, END)), Row((9, 8), (7, END)), Row((1,), (2, 3, 4, 5, END)), Row((6, 6, 6), (4, END))]
NEW, SPARE = 259, 258
"""What a new token gets, and one that the tokenizer has."""


def pairs(refine: int) -> list[Row]:
    return [
        Row((1, 2), (5, 6, END), (5, 6, refine, END), "right"),
        Row((1, 2, 9, 9, 9, 9), (refine, END), (END,), "wrong"),
        Row((3, 4, 7, 7), (refine, 8, 8, END), (END,), "wrong"),
        Row((4,), (5, END), (5, refine, END), "right"),
    ]


def prepared(folder: Path, model: Path, rows: Sequence[Row], token: str | None = None, **settings: Any) -> Path:
    """What `trainer.steps.fit` gives the process."""
    fit = FitSettings.model_validate(WAY | settings)
    Log(folder.parent / "rows.jsonl").write(row.line() for row in rows)
    inputs = {"model": str(model), "chat_template": None, "rows": str(folder.parent / "rows.jsonl"), "token": token}
    write_whole(folder / "inputs.json", json.dumps({**inputs, "fit": fit.model_dump()}))
    return folder


def fitted(folder: Path, model: Path, rows: Sequence[Row], token: str | None = None, **settings: Any) -> Any:
    """The model that comes of it."""
    main(prepared(folder, model, rows, token, **settings))
    return loaded(folder / "model")


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logprobs(model: Any, row: Row, answer: tuple[int, ...]) -> list[float]:
    """Of the tokens of an answer to a row's prompt."""
    with torch.no_grad():
        found = model(torch.tensor([(*row.prompt, *answer)])).logits[0].log_softmax(-1)
    return [float(found[len(row.prompt) + i - 1, token]) for i, token in enumerate(answer)]


def first_loss(folder: Path) -> float:
    return float(next(line["loss"] for line in Log(folder / "losses.jsonl").read() if "loss" in line))


def test_sft_learns_the_answers_and_their_ends_alone(tiny_model: Path, tmp_path: Path) -> None:
    base = loaded(tiny_model)
    after = fitted(tmp_path / "fit", tiny_model, SFT, epochs=3)
    tokens = [one for row in SFT for one in logprobs(base, row, row.chosen)]
    assert first_loss(tmp_path / "fit") == pytest.approx(-sum(tokens) / len(tokens), rel=1e-4)
    for row in SFT:
        assert sum(logprobs(after, row, row.chosen)) > sum(logprobs(base, row, row.chosen))
    assert list((tmp_path / "fit" / "tensorboard").rglob("events.*"))


def test_a_preference_is_dpo_and_a_share_of_the_likelihood(tiny_model: Path, tmp_path: Path) -> None:
    """The likelihood is that of what stands behind a wrong attempt: nothing of the attempt is imitated."""
    base = loaded(tiny_model)
    after = fitted(tmp_path / "fit", tiny_model, pairs(SPARE), micro_batch=4, dpo_weight=2.0, nll_weight=0.5, beta=0.3)
    tokens = [one for row in pairs(SPARE) for one in logprobs(base, row, row.chosen)]
    assert len(tokens) == 3 + 2 + 4 + 2
    # Of the model that it begins with, no row is preferred: DPO's loss is log 2.
    expected = 2 * math.log(2) - 0.5 * sum(tokens) / len(tokens)
    assert first_loss(tmp_path / "fit") == pytest.approx(expected, rel=1e-4)
    reference = {line["row"]: line for line in Log(tmp_path / "fit" / "reference.jsonl").read()}
    for i, row in enumerate(pairs(SPARE)):
        assert row.rejected is not None
        assert reference[i]["chosen"] == pytest.approx(sum(logprobs(base, row, row.chosen)), abs=1e-4)
        assert reference[i]["rejected"] == pytest.approx(sum(logprobs(base, row, row.rejected)), abs=1e-4)
        margins = [
            sum(logprobs(model, row, row.chosen)) - sum(logprobs(model, row, row.rejected)) for model in (base, after)
        ]
        assert margins[1] > margins[0]


def test_what_is_frozen_stays_but_for_a_new_tokens_row(tiny_model: Path, tmp_path: Path) -> None:
    base = loaded(tiny_model)
    after = fitted(tmp_path / "fit", tiny_model, pairs(NEW), "<|refine|>", frozen=0.5, freeze_embeddings=True)
    before, now = base.state_dict(), after.state_dict()
    for name in before:
        same = torch.equal(before[name], now[name][: len(before[name])])
        assert same == (name in ENDS or ".layers.0." in name), name
    assert_rows_were_learnt(before, now)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "fit" / "model")
    assert tokenizer.encode("a<|refine|>b") == [*tokenizer.encode("a"), NEW, *tokenizer.encode("b")]


ENDS = ("model.embed_tokens.weight", "lm_head.weight")


def assert_rows_were_learnt(before: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> None:
    """Those of the new token: how it is read, and how it is said. They began as the mean of all others."""
    for name in ENDS:
        assert len(now[name]) == NEW + 1
        assert not torch.allclose(now[name][NEW], before[name].mean(0), atol=1e-5), name


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_with_a_new_token_becomes_a_checkpoint(tied: bool, tiny_model: Path, tmp_path: Path) -> None:
    base = loaded(tiny_model)
    base.config.tie_word_embeddings = tied
    base.tie_weights()
    base.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "base")
    way = {"lora": {"rank": 4, "alpha": 8}, "learning_rate": 1e-2}
    after = fitted(tmp_path / "fit", tmp_path / "base", pairs(NEW), "<|refine|>", **way)
    assert after.config.tie_word_embeddings == tied
    assert not (tmp_path / "fit" / "model" / "adapter_config.json").exists()
    before, now = base.state_dict(), after.state_dict()
    changed = {name for name, weight in before.items() if not torch.equal(weight, now[name][: len(weight)])}
    assert {name.split(".")[-2] for name in changed} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    assert_rows_were_learnt(before, now)


@pytest.mark.parametrize("rows", [SFT, pairs(SPARE)], ids=["sft", "pairs"])
def test_an_adapter_alone(rows: list[Row], tiny_model: Path, tmp_path: Path) -> None:
    main(prepared(tmp_path / "fit", tiny_model, rows, lora={"rank": 4, "alpha": 8}, merge=False))
    (adapter,) = (tmp_path / "fit" / "adapters").iterdir()
    assert all(path.is_file() for path in adapter.iterdir())
    assert adapter.name == tmp_path.name
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["r"] == 4
    assert config["modules_to_save"] is None
    assert config["base_model_name_or_path"] == str(tiny_model)
    assert list(find_adapters(adapter.parent).values()) == [adapter.resolve()]
    with pytest.raises(ValueError, match="merge it"):
        main(
            prepared(tmp_path / "new", tiny_model, pairs(NEW), "<|refine|>", lora={"rank": 4, "alpha": 8}, merge=False)
        )


def test_rows_with_a_token_that_the_model_lacks(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"the rows hold token {NEW}, and the model has {NEW}"):
        main(prepared(tmp_path / "fit", tiny_model, pairs(NEW)))


@pytest.mark.parametrize(
    ("given", "devices"), [(None, "0"), ("2,3", "2"), ("GPU-8f,GPU-9a", "GPU-8f"), ("1", "1"), ("", "")]
)
def test_one_process_sees_one_gpu_and_several_see_all(given: str | None, devices: str) -> None:
    environment = {"PATH": "/bin"} if given is None else {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": given}
    assert _environment(1, environment) == {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": devices}
    assert _environment(2, environment) == environment


def test_a_training_that_goes_astray_makes_no_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"the loss of step .* lower the learning rate"):
        fitted(tmp_path / "fit", tiny_model, SFT, learning_rate=1e30, epochs=3)
    assert not (tmp_path / "fit" / "model").exists()


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    for step, state in ((1, "{}"), (2, '{"epoch": 1'), (3, "")):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(state)
    assert _latest(tmp_path) == tmp_path / "checkpoint-1"


MANY = [Row((10 + i, *[1] * (i % 5)), (5, 6 + i % 3, END)) for i in range(16)]
"""Rows that their first tokens tell apart."""
KILLED: dict[str, tuple[list[Row], str | None, dict[str, Any]]] = {
    "sft": (MANY, None, {}),
    "pairs": ([replace(row, rejected=(5, SPARE, END)) for row in MANY], None, {}),
    "adapter": (
        [replace(row, rejected=(5, NEW, END)) for row in MANY],
        "<|refine|>",
        {"lora": {"rank": 4, "alpha": 8}, "learning_rate": 1e-2},
    ),
}


@pytest.mark.parametrize("way", KILLED)
def test_a_killed_training_goes_on_as_if_it_had_not_been(
    way: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed amid its second epoch of four steps each."""
    rows, token, settings = KILLED[way]
    settings = {"epochs": 3, "save_minutes": 1e-6, **settings}
    whole = fitted(tmp_path / "a" / "fit", tiny_model, rows, token, **settings)
    folder = prepared(tmp_path / "b" / "fit", tiny_model, rows, token, **settings)
    command = [sys.executable, "-m", "tests.trainer.processes", "--until", "6", str(folder)]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == -signal.SIGKILL
    assert _latest(folder / "steps") == folder / "steps" / "checkpoint-6"
    monkeypatch.setattr(fitting, "trainer_of", watched(fitting.trainer_of))
    main(folder)
    first, *others = seen(folder, 3)
    assert sorted(first) == [row.prompt[0] for row in rows]
    for other in others:
        assert other != first
        assert sorted(other) == sorted(first)
    again = loaded(folder / "model")
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, atol=1e-6, rtol=1e-5)
    steps = [line["step"] for line in Log(folder / "losses.jsonl").read() if "loss" in line]
    assert steps == list(range(1, 13))


def seen(folder: Path, epochs: int) -> list[list[int]]:
    """The first tokens of the rows of each epoch, as `tests.trainer.processes` had all processes write them down."""
    lines = [line for log in sorted(folder.glob("seen-*.jsonl")) for line in Log(log).read()]
    steps = max(line["step"] for line in lines) + 1
    found: list[list[int]] = [[] for _ in range(epochs)]
    for line in sorted(lines, key=lambda line: line["step"]):
        found[line["step"] * epochs // steps] += line["rows"]
    return found


WAYS: dict[str, tuple[list[Row], str | None, dict[str, Any]]] = {
    "sft": (SFT, None, {}),
    "pairs": (pairs(SPARE), None, {}),
    "one row": (pairs(NEW), "<|refine|>", {"frozen": 0.5, "freeze_embeddings": True}),
    "adapter": (KILLED["adapter"][0][:8], "<|refine|>", {"lora": {"rank": 4, "alpha": 8}}),
}
ALONE: dict[str, Any] = {"micro_batch": 1, "epochs": 2, "save_minutes": 1e-6}
"""Rows one by one, for trl's mean over the tokens of several depends on which are together."""


@pytest.fixture(scope="module", params=[False, True], ids=["copies", "fsdp"])
def by_two(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of two processes' fits, by way; each has all weights, or half of them."""
    folder = tmp_path_factory.mktemp("two")
    folders = [
        prepared(folder / way / "fit", tiny_model, rows, token, **ALONE, **settings, processes=2)
        for way, (rows, token, settings) in WAYS.items()
    ]
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.trainer.processes"]
    flags = ["--fsdp"] if request.param else []
    command = [sys.executable, "-m", *launcher, *flags, *map(str, folders)]
    done = subprocess.run([*command, "--until", "3"], capture_output=True, text=True, check=False)
    *others, killed = folders
    # Amid its second epoch of two steps.
    assert _latest(killed / "steps") == killed / "steps" / "checkpoint-3", done.stderr[-3000:]
    assert not (killed / "model").exists()
    # And one as if killed while it wrote the model.
    shutil.rmtree(folder / "pairs" / "fit" / "model")
    command = [*command[: -len(folders)], str(others[1]), str(killed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for epoch in seen(killed, 2):
        assert sorted(epoch) == [row.prompt[0] for row in WAYS["adapter"][0]]
    if request.param:
        for fit in folders:
            held = [float((fit / f"held-{rank}").read_text()) for rank in range(2)]
            assert sum(held) == pytest.approx(1)
            assert max(held) < 0.6
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_come_to_what_one_does(way: str, by_two: Path, tiny_model: Path, tmp_path: Path) -> None:
    rows, token, settings = WAYS[way]
    whole = fitted(tmp_path / "fit", tiny_model, rows, token, **ALONE, **settings)
    shared = loaded(by_two / way / "fit" / "model")

    def flat(model: Any) -> torch.Tensor:
        return torch.cat([weight.flatten() for weight in model.state_dict().values()])

    one, two = flat(whole), flat(shared)
    before = torch.cat([w.flatten() for w in _grown(loaded(tiny_model), whole).values()])
    moved = ((one - before).abs() > 1e-4).float().mean()
    assert moved > 0.1
    # Adam's first step goes as far for a gradient of nearly nothing, whichever sign rounding gives it.
    assert ((one - two).abs() > 1e-4).float().mean() < 1e-2 * moved


def _grown(model: Any, like: Any) -> dict[str, torch.Tensor]:
    """The weights of a model, with the new rows of another's embeddings as that has them."""
    found = {}
    for name, weight in like.state_dict().items():
        found[name] = weight.clone()
        found[name][: len(model.state_dict()[name])] = model.state_dict()[name]
    return found
