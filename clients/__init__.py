"""Clients of the HTTP API: a thin Python client, a terminal chat, a demo and SDK examples."""

from clients.client import AsyncRedraft, Budget, Messages, Redraft
from clients.events import Answer, AnswerDelta, Done, Event, Note, Strategy, StrategyReport, Thought

__all__ = [
    "Answer",
    "AnswerDelta",
    "AsyncRedraft",
    "Budget",
    "Done",
    "Event",
    "Messages",
    "Note",
    "Redraft",
    "Strategy",
    "StrategyReport",
    "Thought",
]
