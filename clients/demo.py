"""See it work: `python -m clients.demo` starts a server, asks one question in every way, compares, and stops."""

import os
import re
import secrets
import signal
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any

import typer
from openai import OpenAIError
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clients.client import Budget, Redraft
from clients.events import AnswerDelta, Done, Event, Note, Thought
from clients.process import ServerError, ServerProcess, free_port
from clients.view import label, printable

# Small models of this kind get it right often, not always; a sentence keeps each call short.
QUESTION = "A book costs 5 dollars. How much do 4 books cost? Answer in one sentence."
SERVE = (sys.executable, "-m", "server.cli", "serve")
PLAIN = "plain"
# The default model was not trained to verify itself, and the demo's server trains no adapters.
PARAMS: Mapping[str, Mapping[str, object]] = {
    "revise": {"mode": "prompted"},
    "ttsi": {"mode": "in_context", "samples": 2, "attempts": 1},
}
# Bound each strategy, so that the whole demo takes about two minutes on a small CPU.
CALLS_WORTH_OF_TOKENS = 3
SECONDS_EACH = 60.0
# What precedes the message in the log lines of vLLM and of uvicorn.
LOG_PREFIX = re.compile(r"^(\(\w+ pid=\d+\) )?([\d-]+ [\d:,]+ )?(DEBUG|INFO|WARNING|ERROR) ([\d-]+ [\d:]+ \[\S+\] )?")
ADVICE = """What to do:
- The first start converts or downloads the model: check the disk space and, for a model from a hub, the network.
- Killed, or out of memory: the default model needs about 4 GiB of free memory.
- Start the server by hand for its whole log: redraft serve --log-level debug"""


@dataclass(frozen=True)
class Row:
    """One line of the final table."""

    strategy: str
    seconds: float
    answer: str
    done: Done | None = None
    failed: bool = False


class Transcript:
    """Prints events as they come: thoughts dimmed and by whole lines, so that parallel branches stay legible."""

    lines_per_thought = 4

    def __init__(self, console: Console) -> None:
        self.answer = ""
        self._console = console
        self._open: dict[int, Thought] = {}
        self._printed: dict[int, int] = {}

    def add(self, event: Event) -> None:
        """Print one event."""
        match event:
            case Thought():
                self._think(event)
            case Note():
                self._flush(*self._open)
                self._print(event.text, "yellow dim")
            case AnswerDelta():
                if not self.answer:
                    self._flush(*self._open)
                self.answer += event.text
                self._console.print(Text(printable(event.text)), end="")
            case Done():
                self._flush(*self._open)
                self._console.print()

    def _think(self, thought: Thought) -> None:
        before = self._open.get(thought.branch)
        if before and before.role != thought.role:
            self._flush(thought.branch)
            self._printed[thought.branch] = 0
            before = None
        text = (before.text if before else "") + thought.text
        *lines, rest = textwrap.wrap(text, self._width, drop_whitespace=False) or [""]
        for line in lines:
            self._print_line(Thought(line, thought.branch, thought.role))
        self._open[thought.branch] = Thought(rest, thought.branch, thought.role)

    @property
    def _width(self) -> int:
        return max(20, self._console.width - 20)

    def _flush(self, *branches: int) -> None:
        for branch in branches:
            thought = self._open[branch]
            self._print_line(thought)
            self._open[branch] = Thought("", branch, thought.role)

    def _print_line(self, thought: Thought) -> None:
        printed = self._printed.get(thought.branch, 0)
        if printed > self.lines_per_thought or not thought.text.strip():
            return
        self._printed[thought.branch] = printed + 1
        text = thought.text.strip() if printed < self.lines_per_thought else "…"
        self._print(f"{label(thought):>14}  {text}", "dim")

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(printable(text), style=style), soft_wrap=True)


def ask(client: Redraft, console: Console, strategy: str, question: str, max_tokens: int) -> Row:
    """Ask with one strategy, or plainly, printing what comes."""
    transcript = Transcript(console)
    budget: Budget = {"max_tokens": CALLS_WORTH_OF_TOKENS * max_tokens, "max_seconds": SECONDS_EACH}
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0.3, "seed": 0}
    done: Done | None = None
    started = time.monotonic()
    try:
        if strategy == PLAIN:
            events = client.stream(question, **sampling)
        else:
            events = client.stream(question, strategy, PARAMS.get(strategy), budget, **sampling)
        with closing(events):
            for event in events:
                transcript.add(event)
                done = event if isinstance(event, Done) else done
    except OpenAIError as error:
        console.print(Text(f"\nfailed: {error}", style="red"))
        return Row(strategy, time.monotonic() - started, str(error), failed=True)
    seconds = time.monotonic() - started
    if not transcript.answer.strip():
        return Row(strategy, seconds, "(no answer)", done, failed=True)
    return Row(strategy, seconds, transcript.answer.strip(), done)


def summary(rows: Sequence[Row]) -> Table:
    """What each strategy cost and said; of a long answer, the end."""
    table = Table(title="One question, asked in every way", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("strategy", no_wrap=True)
    for column in ("engine calls", "prompt tokens", "completion tokens", "seconds"):
        table.add_column(column, justify="right", width=max(map(len, column.split())))
    table.add_column("answer")
    for row in rows:
        report = row.done.strategy if row.done else None
        usage = row.done.usage if row.done else None
        calls = str(report.engine_calls) if report else ("" if row.failed else "1")
        tokens = (str(usage.prompt_tokens), str(usage.completion_tokens)) if usage else ("", "")
        words = " ".join(printable(row.answer).split())
        said = words if len(words) <= 100 else "…" + words[-99:]
        answer = Text(said, style="red" if row.failed else "")
        table.add_row(escape(row.strategy), calls, *tokens, f"{row.seconds:.1f}", answer)
    return table


def wait(server: ServerProcess, console: Console, health_url: str, timeout: float) -> None:
    """Show the server's own last words while it starts: a status line in a terminal, plain lines elsewhere."""
    with console.status("starting the server") as status:
        last = ""

        def progress(elapsed: float, said: str) -> None:
            nonlocal last
            line = Text(f"{elapsed:4.0f} s  starting the server  ")
            line.append(printable(LOG_PREFIX.sub("", said)), style="dim")
            line.truncate(max(20, console.width - 4), overflow="ellipsis")
            if console.is_terminal:
                status.update(line)
            elif said != last:
                console.print(line, soft_wrap=True)
            last = said

        server.wait_healthy(health_url, timeout, progress)


def ask_all(
    server: ServerProcess, console: Console, port: int, key: str, question: str, max_tokens: int, start_timeout: float
) -> None:
    """Ask in every way once the server is up, and print the comparison."""
    wait(server, console, f"http://127.0.0.1:{port}/health", start_timeout)
    client = Redraft(f"http://127.0.0.1:{port}/v1", key)
    names = [each.name for each in client.strategies() if each.available]
    console.print(Text(f"Question: {question}", style="bold"))
    rows = []
    for name in (PLAIN, *names):
        console.rule(escape(name))
        rows.append(ask(client, console, name, question, max_tokens))
        server.check()
    console.print(summary(rows))
    if failed := [row.strategy for row in rows if row.failed]:
        raise ServerError(f"no answer from {', '.join(failed)}")


def run(serve: Sequence[str], console: Console, question: str, max_tokens: int, start_timeout: float) -> bool:
    """Start a server by the command `serve`, ask, and stop it. True if all went well."""
    key = secrets.token_urlsafe()
    # Neither the health check nor the client may ask a proxy for this machine.
    os.environ["no_proxy"] = f"{os.environ.get('no_proxy', os.environ.get('NO_PROXY', ''))},127.0.0.1"
    port = free_port()
    command = [*serve, "--host", "127.0.0.1", "--port", str(port)]
    server = ServerProcess(command, {"REDRAFT_API_KEY": key})
    try:
        with server:
            try:
                ask_all(server, console, port, key, question, max_tokens, start_timeout)
            finally:
                console.print(Text("Stopping the server.", style="dim"))
    except (ServerError, OpenAIError) as error:
        console.print(Text(f"{error}. The end of the server's log:", style="red"))
        console.print(Text(printable("\n".join(server.log_tail(25))), style="dim"), soft_wrap=True)
        console.print(Text(f"The whole log: {server.log_path}\n{ADVICE}"))
        return False
    return True


def leave(number: int, _: FrameType | None) -> None:
    """Turn a signal into an exit that unwinds, so that the server stops too."""
    raise SystemExit(128 + number)


def main(
    question: Annotated[str, typer.Argument(help="What to ask.")] = QUESTION,
    model: Annotated[str | None, typer.Option(help="Model to serve; default: the server's.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest visible answer, in tokens.")] = 128,
    start_timeout: Annotated[float, typer.Option(help="Seconds to wait for the server.")] = 900.0,
) -> None:
    """Start a server, ask one question plainly and with each strategy, compare, and stop."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    serve = [*SERVE, *(["--model", model] if model else [])]
    if not run(serve, Console(highlight=False), question, max_tokens, start_timeout):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
