"""Runs a command that ends with whoever started it, even if that is killed: `python -m trainer.children COMMAND...`.

Else a training or a server would go on beside the one that the next try starts.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def bound(command: Sequence[str]) -> list[str]:
    """A command as one that ends with this process."""
    return [sys.executable, "-m", "trainer.children", str(os.getpid()), *command]


def main(parent: int, command: Sequence[str]) -> None:
    """Becomes the command."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # It is gone already.
        sys.exit(1)
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
