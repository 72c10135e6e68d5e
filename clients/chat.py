"""A chat in the terminal: `python -m clients.chat --url http://127.0.0.1:8000/v1 --strategy self_refine`."""

from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from openai import OpenAIError
from openai.types.chat import ChatCompletionMessageParam
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from clients.client import Redraft
from clients.view import TurnView

with suppress(ImportError):
    import readline  # noqa: F401  # imported for its effect: input() gets line editing and history

DEFAULT_URL = "http://127.0.0.1:8000/v1"
HELP = "/strategy NAME switches (none: plain), /strategy lists, /quit leaves, Ctrl-C stops an answer"


@dataclass
class Chat:
    """One conversation."""

    client: Redraft
    console: Console
    strategy: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    history: list[ChatCompletionMessageParam] = field(default_factory=list)

    def loop(self) -> None:
        """Read lines until /quit or the end of input."""
        while True:
            try:
                line = self.console.input(f"[bold green]{escape(self.strategy or 'plain')}>[/] ").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if line == "/quit":
                return
            try:
                self.handle(line)
            except OpenAIError as error:
                self.console.print(str(error), style="red", markup=False)

    def handle(self, line: str) -> None:
        """Obey a command, or ask the model."""
        match line.split():
            case []:
                pass
            case ["/strategy"]:
                self.list_strategies()
            case ["/strategy", name]:
                self.choose(name)
            case [command, *_] if command.startswith("/"):
                self.console.print(HELP, style="yellow", markup=False)
            case _:
                self.say(line)

    def say(self, text: str) -> None:
        """Ask, show what comes, and remember both sides if the answer came whole."""
        asked: list[ChatCompletionMessageParam] = [*self.history, {"role": "user", "content": text}]
        view = TurnView()
        events = self.client.stream(asked, self.strategy, **self.sampling)
        problem = ""
        with Live(view, console=self.console, transient=True, refresh_per_second=10), closing(events):
            try:
                for event in events:
                    view.add(event)
            except KeyboardInterrupt:
                problem = "stopped"
            except OpenAIError as error:
                problem = str(error)
        self.console.print(view.whole())
        if problem:
            self.console.print(problem, style="red", markup=False)
        else:
            self.history = [*asked, {"role": "assistant", "content": view.answer}]

    def choose(self, name: str) -> None:
        """Switch to a strategy, written NAME or NAME+DECODER, if the server can run it."""
        if name in ("none", "plain"):
            self.strategy = None
            return
        available = {strategy.name for strategy in self.client.strategies() if strategy.available}
        if unknown := [part for part in name.split("+") if part not in available]:
            self.console.print(
                f"not available: {', '.join(unknown)}; there is {', '.join(sorted(available))}",
                style="red",
                markup=False,
            )
        else:
            self.strategy = name

    def list_strategies(self) -> None:
        """Print what the server offers."""
        table = Table("strategy", "kind", "available", "what it does", box=None)
        for strategy in self.client.strategies():
            table.add_row(strategy.name, strategy.kind, "yes" if strategy.available else "no", escape(strategy.summary))
        self.console.print(table)


def main(
    url: Annotated[str, typer.Option(envvar="OPENAI_BASE_URL", help="Base URL, /v1 included.")] = DEFAULT_URL,
    strategy: Annotated[str, typer.Option(help="Strategy to begin with.")] = "none",
    model: Annotated[str | None, typer.Option(help="Model; default: the server's first.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="API key.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest visible answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature.")] = None,
) -> None:
    """Chat with a redraft server and watch it think."""
    console = Console(highlight=False)
    wished = {"max_tokens": max_tokens, "temperature": temperature}
    sampling = {name: value for name, value in wished.items() if value is not None}
    chat = Chat(Redraft(url, api_key, model), console, sampling=sampling)
    try:
        chat.choose(strategy)
        console.print(HELP, style="dim", markup=False)
        chat.loop()
    except OpenAIError as error:
        console.print(f"{url}: {error}", style="red", markup=False)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
