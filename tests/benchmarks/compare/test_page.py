"""The report, opened in a browser."""

import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colors, image

from benchmarks.compare import page, plots
from benchmarks.compare.settings import Settings
from benchmarks.compare.summary import Result
from tests.benchmarks.compare.judged import block, done, failed, line, settings

IDS = "abcdefgh"
LABELS = ("plain", "refined", "voted")
FIGURES = ("frontier", "accuracy", "seconds")
SESSIONS = [{"date": "2000-01-01", "command": "redraft bench compare out", "machine": {"memory": "8 GiB"}}]


def made() -> tuple[Settings, Result]:
    """Three arms: the second refines, and was told to fail once."""
    lines = [
        line("plain", item, i, item if (place + i) % 2 else "no") for place, item in enumerate(IDS) for i in (0, 1)
    ]
    lines += [
        line("refined", item, 0, item, 35, first_attempt="no", first_thought=0.2, seconds=3.0) for item in IDS[1:]
    ]
    lines += [failed("refined", "a", 0, "500: <script>alert(1)</script>")]
    lines += [line("voted", item, 0, item if item < "e" else "no", 22, block=1, seconds=2.0) for item in IDS]
    arms = {"plain": 2, "refined": 1, "voted": 1}
    blocks = [block(1, "voted", 8, 8 * 22)]
    return settings(**arms), Result.of("echo", 8, done(IDS, lines, blocks, **arms), arms, "plain")


@pytest.fixture(scope="module")
def html() -> str:
    return page.page(*made(), SESSIONS)


def test_it_needs_nothing_else(html: str) -> None:
    assert not re.findall(r"<(?:script|link|img|iframe|object)\b|@import|\bsrc=", html)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', html))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "500: &lt;script&gt;" in html, "what a server said is text"


def test_it_says_what_was_asked_and_what_came_of_it(html: str) -> None:
    text = " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)).split())
    for told in (
        "3 ways to ask",
        "8 items of echo",
        "redraft bench compare out",
        "memory 8 GiB",
        "Not checked against an engine: plain, refined",
        "176 / 176",
        "voted 8 avg@1 50%",
        "refined 7 0% 100% 100% 0% - 100%",
        "self-consistency of plain, 2 20",
    ):
        assert told in text, told


def test_it_is_alike_for_alike_numbers(html: str) -> None:
    assert page.page(*made(), SESSIONS) == html


def test_numbers_stand_beside_it(tmp_path: Path) -> None:
    config, result = made()
    assert page.write(tmp_path, config, result, SESSIONS) == tmp_path / "report.html"
    found = json.loads((tmp_path / "report.json").read_text())
    assert [arm["label"] for arm in found["result"]["arms"]] == list(LABELS)
    assert found["result"]["arms"][1]["refined"]["critique_score"] == 1
    assert found["settings"]["suite"] == "echo"


def test_without_any_answer() -> None:
    arms = {"plain": 1}
    result = Result.of("echo", 1, done("x", [failed("plain", "x", 0, "500: x")], [], **arms), arms, "plain")
    found = page.page(settings(**arms), result, [])
    assert "<svg" not in found
    assert "nothing to plot" in found


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    missing = "no Chromium to open the report in: apt-get install chromium"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def screenshot(html: str, folder: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What a person sees, as RGB values, [height, width, 3]."""
    path, picture = folder / "page.html", folder / "page.png"
    path.write_text(html)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--window-size=1100,6000", f"--screenshot={picture}"]
    done = subprocess.run([browser(), *flags, path.as_uri()], capture_output=True, text=True, timeout=240, check=False)
    assert picture.exists(), done.stderr
    pixels: np.ndarray[Any, np.dtype[np.float32]] = image.imread(picture)[:, :, :3]
    return pixels


def coloured(pixels: np.ndarray[Any, np.dtype[np.float32]]) -> list[int]:
    """How many pixels have the colour of each arm."""
    wanted = [np.array(colors.to_rgb(plots.colour(place))) for place in range(len(LABELS))]
    return [int((np.abs(pixels - one).max(2) < 0.02).sum()) for one in wanted]


def test_its_plots_are_seen(html: str, tmp_path: Path) -> None:
    """Each of them: without it, there is less of every arm's colour, and without all of them nothing."""
    seen = [coloured(screenshot(html, tmp_path))]
    for figure in FIGURES:
        html, gone = re.subn(rf'<figure id="{figure}">.*?</figure>', "", html, flags=re.DOTALL)
        assert gone == 1
        seen.append(coloured(screenshot(html, tmp_path)))
    for before, after in itertools.pairwise(seen):
        assert all(more > less + 20 for more, less in zip(before, after, strict=True)), seen
    assert seen[-1] == [0, 0, 0]
