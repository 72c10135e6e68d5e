"""vllm-router with the key for its engines from the environment: `python -m deploy.router`, with vllm-router's flags.

Of its own it takes the key as a flag, which the machine's list of processes shows. Without one it asks the engines for
tokens in its clients' name, but leaves the key out of all that it passes on as it is: adapters, aborts, responses.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

VARIABLE = "REDRAFT_UPSTREAM_KEY"


def arguments(flags: Sequence[str], environment: Mapping[str, str]) -> Any:
    """vllm-router's own arguments, with the key."""
    from vllm_router.launch_router import parse_router_args

    parsed = parse_router_args(list(flags))
    parsed.api_key = environment.get(VARIABLE) or None
    return parsed


def main() -> None:
    """Runs the router."""
    from vllm_router.launch_router import launch_router

    launch_router(arguments(sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()
