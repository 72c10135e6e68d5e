"""Which sampling parameters reach an engine, whatever came before: noted by the engine itself, a line a call.

`register` is a vLLM plugin (group `vllm.general_plugins`), announced to the servers that are compared. What
`--enable-log-requests` logs would not do: it lacks `logit_bias`, and strategies of redraft call the engine beside the
HTTP classes that log.
"""

import json
import os
from collections.abc import Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

NAME = "redraft_seen_calls"
VARIABLE = "REDRAFT_BENCH_CALLS"
"""The environment's name for the file that calls are noted in."""

PARAMETERS = (
    *("n", "temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "stop"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"),
)

Call = Mapping[str, Any]
"""The parameters of one call of the engine."""


def register() -> None:
    """VLLM calls it in each of its processes; the one that holds the AsyncLLM notes."""
    from vllm.v1.engine.async_llm import AsyncLLM

    added = AsyncLLM.add_request

    @wraps(added)
    async def noted(engine: Any, request_id: str, prompt: Any, params: Any, *args: Any, **options: Any) -> Any:
        with open(os.environ[VARIABLE], "a", encoding="utf-8") as file:
            file.write(line(params))
        return await added(engine, request_id, prompt, params, *args, **options)

    AsyncLLM.add_request = noted  # type: ignore[assignment, method-assign]


def line(params: Any) -> str:
    """One call, as it is noted."""
    return json.dumps({name: getattr(params, name, None) for name in PARAMETERS}) + "\n"


class SeenCalls:
    """The file of one engine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    @property
    def variables(self) -> dict[str, str]:
        """With which a server notes its calls there."""
        return {VARIABLE: str(self._path)}

    def new(self) -> list[Call]:
        """The calls since the last time."""
        if not self._path.exists():
            return []
        with self._path.open(encoding="utf-8") as file:
            file.seek(self._read)
            lines = file.readlines()
            self._read = file.tell()
        return [json.loads(one) for one in lines]


def reached(sent: Any, name: str, calls: Sequence[Call]) -> bool:
    """Whether every call has a parameter as it was sent. Of a seed, that each has one: branches need different ones."""
    if not calls:
        return False
    if name == "seed":
        return all(call["seed"] is not None for call in calls)
    return all(_plain(call[name]) == _plain(sent) for call in calls)


def _plain(value: Any) -> Any:
    """As JSON has it, for the keys of a logit bias are numbers to an engine."""
    return json.loads(json.dumps(value))
