"""Runs code that a model wrote, where it can do no harm: `python -I -S sandbox.py SECONDS MEMORY < code`.

In namespaces of its own (Linux): no network and no socket, no other process in sight, all files read-only but an empty
folder in memory that is gone with it. Bounded in time, memory and open files, and in processes unless root
starts it, of whom Linux counts none. Of the environment it has nothing.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

SECONDS = 10
MEMORY = 2**30
"""Bytes of address space."""
SCRATCH = 2**24
PROCESSES, FILES = 64, 64
GRACE = 10.0
"""Seconds that starting and ending may take."""

CLONE = {"mount": 0x00020000, "ipc": 0x08000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
MS_NOSUID_NODEV_NOEXEC, MS_REC_PRIVATE = 2 | 4 | 8, 0x4000 | 1 << 18
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY, SYS_MOUNT_SETATTR = -100, 0x8000, 1, 442
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_FILTER, KILL, EPERM, ALLOW = 2, 0x80000000, 0x00050001, 0x7FFF0000
ARCHITECTURES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""By machine: how audits call it, and the number of its socket()."""
IO_URING_SETUP, X32 = 425, 0x40000000
"""Another way to a socket, and the bit of the other numbers for the same calls."""
LIBC = ctypes.CDLL(None, use_errno=True)
NOBODY = 65534
DONE = 42
"""Exit status of code that came to its end: what leaves by `sys.exit()` before, has not."""
REFUSED = 78
"""Exit status where the system makes no such namespaces."""


class SandboxError(RuntimeError):
    """There can be no sandbox here; nothing was run."""


def passes(code: str, seconds: int = SECONDS, memory: int = MEMORY) -> bool:
    """Whether code runs to its end without an error, in time and within memory.

    Raises:
        SandboxError: the system makes no namespaces.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-I", "-S", str(Path(__file__)), str(seconds), str(memory)]
        with subprocess.Popen(
            command,
            cwd=folder,
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                _, said = process.communicate(code.encode(errors="replace"), seconds + GRACE)
            except subprocess.TimeoutExpired:
                return False
            finally:
                # What is inside ends with it: it is the first process of their namespace.
                process.kill()
    if process.returncode == REFUSED:
        raise SandboxError(said.decode(errors="replace").strip())
    return process.returncode == DONE


def main(seconds: int, memory: int) -> int:
    """Becomes the sandbox, and runs the standard input in it; returns the exit status."""
    given = os.memfd_create("code")
    os.write(given, sys.stdin.buffer.read())
    os.lseek(given, 0, os.SEEK_SET)
    os.dup2(given, 0)
    user, group = os.getuid(), os.getgid()
    must(LIBC.unshare(sum(CLONE.values())))
    # It writes to its folder as somebody who is not root, so that a new program has no capabilities.
    for name, line in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {user} 1"), ("gid_map", f"{NOBODY} {group} 1")):
        Path("/proc/self", name).write_text(line)
    # The first process of the namespace cannot be killed from within, and with it all others end.
    first = os.fork()
    return status_of(first, None) if first else inside(seconds, memory)


def inside(seconds: int, memory: int) -> int:
    """Shuts the doors, runs the code in a further process, and waits for it."""
    must(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    here = os.getcwd().encode()
    must(LIBC.mount(None, b"/", None, MS_REC_PRIVATE, None))
    must(LIBC.mount(b"proc", b"/proc", b"proc", MS_NOSUID_NODEV_NOEXEC, None))
    read_only = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    must(LIBC.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, read_only, ctypes.sizeof(read_only)))
    must(LIBC.mount(b"scratch", here, b"tmpfs", MS_NOSUID_NODEV_NOEXEC, f"size={SCRATCH},mode=777".encode()))
    must(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    no_sockets()
    child = os.fork()
    if child:
        # Whatever else it ends with: to refuse is ours alone.
        return DONE if status_of(child, seconds) == DONE else 1
    os.chdir(here)
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, PROCESSES),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_FSIZE, SCRATCH),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    os.dup2(1, 2)  # What it says is nobody's: the caller would keep all of it.
    os.execve(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", f"import os, sys; exec(sys.stdin.read()); os._exit({DONE})"],
        {},
    )


def no_sockets() -> None:
    """Nothing from here on can make a socket: those that are files are in no network's namespace."""
    if platform.machine() not in ARCHITECTURES:
        refuse(f"no sandbox on {platform.machine()}")
    architecture, socket = ARCHITECTURES[platform.machine()]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    # Instructions of BPF over what a system call is: its architecture stands at 4, its number at 0.
    program = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (give, 0, 0, KILL),
        (load, 0, 0, 0),
        (at_least, 2, 0, X32),
        (equal, 1, 0, socket),
        (equal, 0, 1, IO_URING_SETUP),
        (give, 0, 0, EPERM),
        (give, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    given = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    must(LIBC.prctl(PR_SET_SECCOMP, SECCOMP_FILTER, ctypes.c_char_p(given), 0, 0))


def status_of(child: int, seconds: float | None) -> int:
    """Of a process; 1 for one that was killed, or takes too long."""
    if seconds is not None:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
        signal.alarm(int(seconds))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1


def must(result: int) -> None:
    """Ends this process where the system refuses what it is asked."""
    if result != 0:
        refuse(f"no sandbox here: {os.strerror(ctypes.get_errno())}")


def refuse(why: str) -> NoReturn:
    """Ends this process, which has run nothing."""
    print(why, file=sys.stderr)
    os._exit(REFUSED)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
