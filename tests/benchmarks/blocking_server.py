"""Something to watch: an event loop that computes for 0.2 s in one go, again and again."""

import asyncio
import sys
import time


def compute() -> None:
    began = time.thread_time()
    while time.thread_time() - began < 0.2:
        pass


async def work() -> None:
    print("ready", *sys.argv[1:], flush=True)
    while True:
        compute()
        print("computed", flush=True)
        await asyncio.sleep(0.02)


def main() -> None:
    asyncio.run(work())
