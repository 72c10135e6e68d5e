import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.watched import places


def test_a_stall_of_the_loops_own_doing_is_seen_with_its_place(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.watched", str(report), "tests.benchmarks.blocking_server:main", "--x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready --x\n"
            process.send_signal(signal.SIGUSR1)
            # The watch begins after the first of them; others it sees as a whole.
            assert [process.stdout.readline() for _ in range(4)] == ["computed\n"] * 4
            process.send_signal(signal.SIGUSR2)
            deadline = time.monotonic() + 20
            while not report.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            process.kill()
    seen = json.loads(report.read_text())
    assert seen["own_stalls"] >= 1
    assert seen["late"][-1] >= 150
    worst = seen["worst"][0]
    assert worst["cpu_ms"] >= 150
    assert any("compute" in place for place in worst["at"])
    assert seen["loop"].startswith("asyncio.")


def test_places_name_no_folder_of_this_machine() -> None:
    innermost, *_ = places(sys._getframe())
    assert innermost.endswith("test_places_name_no_folder_of_this_machine")
    assert not any("site-packages" in place for place in places(sys._getframe()))
