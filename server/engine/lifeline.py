"""Ends the engine's processes with the server's: one that was killed outright cannot stop them itself."""

import ctypes
import multiprocessing
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def register() -> None:
    """Asks the kernel to end this process when its parent ends. vLLM calls this in each of its processes; only those
    that it started itself are its own to end.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:
        # It died before the kernel was asked.
        os.kill(os.getpid(), signal.SIGKILL)
