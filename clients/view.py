"""How a turn of the chat looks in a terminal, while it comes and once it is there."""

import time
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.text import Text

from clients.events import AnswerDelta, Done, Event, Note, Thought, join_thoughts

THOUGHT_LINES = 4


def printable(text: str) -> str:
    """The text without control characters: a model must not steer the terminal."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


def label(thought: Thought) -> str:
    """Names the role and branch of a thought."""
    return printable(f"{thought.role or 'thought'} {thought.branch}")


def footer(done: Done, seconds: float) -> Text:
    """One line on what an answer cost."""
    parts = []
    if report := done.strategy:
        parts += [report.name, f"rounds: {report.rounds}", f"calls: {report.engine_calls}"]
        parts += [f"stopped: {report.stop_reason}"] if report.stop_reason else []
    if usage := done.usage:
        details = usage.completion_tokens_details
        hidden = details.reasoning_tokens if details else None
        parts.append(f"{usage.prompt_tokens} tokens in")
        parts.append(f"{usage.completion_tokens} out" + (f" ({hidden} hidden)" if hidden else ""))
    parts.append(f"{seconds:.1f} s")
    if done.finish_reason == "length":
        parts.append("cut at the token limit")
    return Text(printable(" · ".join(parts)), style="cyan dim")


class TurnView:
    """Collects the events of one turn. Rendered, it shows as much of the end as the terminal has room for."""

    def __init__(self) -> None:
        self.answer = ""
        self._events: list[Thought | Note] = []
        self._done: Done | None = None
        self._started = time.monotonic()
        self._seconds = 0.0

    def add(self, event: Event) -> None:
        """Take one more event."""
        self._seconds = time.monotonic() - self._started
        match event:
            case AnswerDelta():
                self.answer += event.text
            case Done():
                self._done = event
            case Thought() | Note():
                self._events.append(event)

    def whole(self) -> RenderableType:
        """Everything, for the scrollback."""
        return Group(*self._parts(None))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(height=None)
        lines = console.render_lines(Group(*self._parts(THOUGHT_LINES)), options, pad=False)
        # Live can only redraw what is on the screen.
        for line in lines[-max(1, console.height - 1) :]:
            yield from line
            yield Segment.line()

    def _parts(self, thought_lines: int | None) -> Iterator[RenderableType]:
        for thought in join_thoughts(event for event in self._events if isinstance(event, Thought)):
            lines = printable(thought.text).strip().splitlines()
            shown = lines if thought_lines is None else lines[-thought_lines:]
            yield Text(label(thought), style="magenta dim")
            yield Padding(Text("\n".join(shown), style="dim"), (0, 0, 0, 2))
        for event in self._events:
            if isinstance(event, Note) and event.text:
                yield Text(printable(f"• {event.text}"), style="yellow dim")
        if self.answer:
            yield Padding(Text(printable(self.answer)), (1, 0, 0, 0))
        if self._done:
            yield footer(self._done, self._seconds)
        else:
            yield Text(f"{time.monotonic() - self._started:.0f} s", style="cyan dim")
