"""The answer before refinement, as a strategy streams it among its thoughts."""

from collections.abc import Mapping
from typing import Any

ROLES = ("draft", "attempt")
"""Of thoughts that would be the answer if nothing came after them; `sample` is none: nobody refines it."""


class FirstAttempt:
    """The first draft or attempt of branch 0, put together from the chunks of a stream.

    It is whole once the branch does something else: it is criticised or verified, or the answer comes. What was doubted
    at a budget before its own end is no answer yet, and none is found then.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._role = ""
        self._over = False
        self._cut = False

    def add(self, beside: Mapping[str, Any], thought: str) -> None:
        """Takes what stands beside a chunk's delta, and the thought in the delta."""
        if self._over or beside.get("event") not in ("thought", "note") or beside.get("branch") != 0:
            return
        role, note = beside.get("role") or "", beside.get("note") or {}
        if not self._role and role in ROLES:
            self._role = role
        if not self._role:
            return
        self._over = bool(note) or role != self._role
        self._cut = note.get("kind") == "trigger" and not note.get("finished")
        if not self._over:
            self._pieces.append(thought)

    @property
    def text(self) -> str | None:
        """The attempt, which may be empty; None where there is none."""
        return "".join(self._pieces) if self._role and not self._cut else None
