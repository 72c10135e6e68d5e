"""Gives a CPU engine's cores to those who compute: vLLM's processes wait for each other asleep, not spinning.

The engine's process waits for the model's step, and the worker for its next one, in a loop that asks again and again
for a second, before it sleeps until it is notified. On a GPU that costs a core that nobody needs; on a CPU the model's
own threads run on it, and other processes were seen to get nothing for seconds. A step takes longer than the loop is
worth: so it ends after 2 ms.

Not at once, and no sleep lasts long: ZeroMQ drops a notification that comes within about a millisecond of the last one.
"""

import inspect
from typing import Any

SPIN_SECONDS = 0.002
RECHECK_MS = 20
"""How long a process sleeps at most before it looks by itself."""


def register() -> None:
    """Patch vLLM's message queue; vLLM calls this in each of its processes. No effect on other platforms.

    Raises:
        RuntimeError: vLLM's message queue isn't the one that this patch was written for.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.distributed.device_communicators import shm_broadcast

    patch(shm_broadcast)


def patch(queue: Any) -> None:
    """Make readers of a module's message queues spin for SPIN_SECONDS, and look every RECHECK_MS.

    Raises:
        RuntimeError: the module isn't built as this patch expects.
    """
    condition: Any = getattr(queue, "SpinCondition", None)
    spin = None if condition is None else inspect.signature(condition).parameters.get("busy_loop_s")
    if spin is None or not hasattr(queue, "SHM_READER_RECHECK_INTERVAL_MS"):
        raise RuntimeError(
            "redraft can't shorten how long this vllm spins: its message queue isn't as expected. "
            "Install the vllm version that redraft pins."
        )
    queue.SHM_READER_RECHECK_INTERVAL_MS = RECHECK_MS
    initialize = condition.__init__
    names = [name for name, one in inspect.signature(initialize).parameters.items() if one.default is not one.empty]
    initialize.__defaults__ = tuple(
        SPIN_SECONDS if name == "busy_loop_s" else default
        for name, default in zip(names, initialize.__defaults__, strict=True)
    )
