"""The plain answer, under a strategy's budget, deadline and accounting."""

from collections.abc import AsyncIterator

from typing_extensions import override

from strategies.base import Answer, Event, Strategy, Task
from strategies.session import Session


class Direct(Strategy):
    """One call of the model."""

    name = "direct"
    summary = "One plain call, with a budget and a deadline: the baseline of every other strategy."
    needs = frozenset()

    @override
    async def run(self, task: Task, engine: Session) -> AsyncIterator[Event]:
        async for piece in engine.call(task.prompt, task.sampling_for("final"), role="final"):
            yield Answer(piece)
