"""What code in the sandbox can do, and what not."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.sandbox import passes


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("assert sum([1, 2]) == 3", True),
        ("assert sum([1, 2]) == 4", False),
        ("import sys; sys.exit(0)", False),
        ("import sys; sys.exit(3)", False),
        ("def f(:", False),
        ("import math, json, re, collections; json.dumps(math.pi)", True),
        ("open('note', 'w').write('x'); assert open('note').read() == 'x'", True),
        ("\ud800", False),
    ],
)
def test_what_passes(code: str, expected: bool) -> None:
    assert passes(code) == expected


def test_it_ends_in_time() -> None:
    began = time.monotonic()
    assert not passes("while True: pass", seconds=1)
    assert not passes("import time; time.sleep(60)", seconds=1)
    hidden = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (14, 15, 24)]; time.sleep(60)"
    assert not passes(hidden, seconds=1)
    assert time.monotonic() - began < 20


def test_memory_is_bounded() -> None:
    assert passes("x = bytearray(2**20)", memory=2**28)
    assert not passes("x = bytearray(2**29)", memory=2**28)


def test_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        connect = f"import socket; socket.create_connection({address!r}, 2)"
        subprocess.run(["python3", "-c", connect], check=True)
        assert not passes(connect)
        assert passes(f"import socket\ntry:\n    {connect}\nexcept OSError: pass\nelse: raise SystemExit(1)")


def test_no_sockets_that_are_files(tmp_path: Path) -> None:
    """Which are in no network's namespace: a bus, or a daemon's, would run what it is told outside."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
        subprocess.run(["python3", "-c", connect], check=True)
        assert not passes(connect)
        assert passes(f"try:\n    {connect}\nexcept PermissionError: pass\nelse: raise SystemExit(1)")


def test_what_it_says_and_writes_is_bounded() -> None:
    assert passes("import os; [os.write(2, b'x' * 2**20) for _ in range(64)]"), "it goes nowhere"
    flood = "import os; f = os.memfd_create('x'); [os.write(f, b'x' * 2**20) for _ in range(64)]"
    assert not passes(flood)


def test_its_own_status_refuses_nothing() -> None:
    assert not passes("import os; os._exit(78)")


def test_files_outside_stay_as_they_are(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    os.chmod(tmp_path, 0o777)
    os.chmod(kept, 0o666)
    for attempt in (
        f"open({str(kept)!r}, 'w')",
        f"import os; os.remove({str(kept)!r})",
        f"open('{tmp_path}/new', 'w')",
    ):
        assert not passes(attempt)
        caught = (
            f"try:\n    {attempt}\nexcept OSError as error: assert error.errno == 30, error\nelse: raise SystemExit(1)"
        )
        assert passes(caught), "it is a read-only file system"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert kept.read_text() == "mine"


def test_other_processes_are_out_of_sight_and_nothing_is_left() -> None:
    seen = "import os; assert sorted(p for p in os.listdir('/proc') if p.isdigit()) == ['1', '2']"
    assert passes(seen)
    mark = "7311.25"
    assert passes(
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep({mark})'])"
    )
    assert mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_a_fork_bomb_ends() -> None:
    assert not passes("import os\nwhile True: os.fork()", seconds=2)


def test_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert passes("import os; assert not {k for k in os.environ if k != 'LC_CTYPE'}, os.environ")


def test_no_capabilities() -> None:
    assert passes("assert 'CapEff:\\t0000000000000000' in open('/proc/self/status').read()")
