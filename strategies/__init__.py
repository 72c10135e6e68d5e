"""Methods that spend inference-time compute for a better answer, each a package over the Engine port.

A strategy of your own subclasses `Strategy` and is announced in the entry-point group `redraft.strategies`.
"""

from strategies.base import (
    Answer,
    Budget,
    Decoder,
    Event,
    InvalidTask,
    Note,
    Params,
    Plugin,
    Strategy,
    Task,
    Thought,
)
from strategies.call import Call
from strategies.session import Exhausted, Session, Usage, run

__all__ = [
    "Answer",
    "Budget",
    "Call",
    "Decoder",
    "Event",
    "Exhausted",
    "InvalidTask",
    "Note",
    "Params",
    "Plugin",
    "Session",
    "Strategy",
    "Task",
    "Thought",
    "Usage",
    "run",
]
