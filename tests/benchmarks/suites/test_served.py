"""Each suite's format, asked of the real server: every answer is graded, and tokens told are those that it counted."""

import json
from pathlib import Path

import pytest

from benchmarks.compare.arms import Arm
from benchmarks.compare.asking import ask_all
from benchmarks.compare.folder import Folder
from benchmarks.compare.outcomes import KINDS, outcomes
from benchmarks.compare.plan import plan
from benchmarks.compare.settings import Settings
from benchmarks.suites import NAMES, suite
from tests.benchmarks.suites.published import AREA, PUBLISHED
from tests.servers import Server

ARMS = (Arm(label="plain"), Arm(label="vote", strategy="self_consistency", params={"samples": 2, "early_stop": False}))
PACKAGED = {"bfcl_simple", "bfcl_multiple"}
MADE = ("gym:chain_sum:min_terms=2,max_terms=2", "file")


def named(name: str, folder: Path) -> str:
    """The suite, of two items in its own format where it is one that is published as rows."""
    if name in PACKAGED or name.startswith("gym:"):
        return name
    row = (
        AREA if name == "human_eval" else {"question": "2 + 2?", "answer": 4} if name == "file" else PUBLISHED[name][0]
    )
    key = next((key for key in ("question", "problem", "Question", "prompt") if key in row), "question")
    rows = [row, {**row, key: f"{row[key]}\n", "task_id": "HumanEval/8"}]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return f"{name}:{path}"


@pytest.mark.parametrize("name", [*NAMES, *MADE])
async def test_a_suite_is_asked_and_graded(server: Server, name: str, tmp_path: Path) -> None:
    asked = suite(named(name, tmp_path), 2, 1, run_code=True)
    settings = Settings(
        suite=name, count=2, max_tokens=24, at_once=2, run_code=True, url=server.url, model=server.model, arms=ARMS
    )
    folder = Folder(tmp_path / "run")
    with folder.taken(settings, asked.items):
        await ask_all(settings, plan(settings, asked.items), folder, server.url)
    for arm in outcomes(settings, asked, folder.answers.read(), folder.blocks.read()):
        assert arm.errors == {}
        assert list(arm.outcomes) == [item.id for item in asked.items]
        assert (arm.counted.answers, arm.counted.of) == (2, 2)
        for kind in KINDS:
            assert arm.counted.told[kind] == arm.counted.engine[kind], (arm.label, kind)
        assert all(0 < (one.told["completion"] or 0) <= 48 for one in arm.answers)
