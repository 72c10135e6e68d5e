"""How often the model is right on tasks that gateways may be compared on: `python -m benchmarks.peers.candidates`."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks import servers
from benchmarks.load import all_of, chat, client
from benchmarks.peers.arms import TEMPERATURE
from benchmarks.peers.settings import Settings
from benchmarks.report import number, table
from benchmarks.servers import MODEL, Server
from benchmarks.stats import wilson
from benchmarks.suites import Answer, Suite, SuiteError, suite

TASKS = (
    "gym:chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1",
    "gym:chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=2",
    "gym:chain_sum:min_terms=2,max_terms=2,min_digits=2,max_digits=2",
    "gym:basic_arithmetic:min_terms=2,max_terms=2,min_digits=1,max_digits=1",
    "gym:gcd:max_value=20",
    "gym:simple_equations:min_terms=2,max_terms=2,min_value=1,max_value=9",
)
console = Console(stderr=True)


async def asked(server: Server, found: Suite, settings: Settings) -> list[str]:
    """A row of the table: the task, accuracy of one answer with its interval, tokens, and the share that was cut."""
    more = {"temperature": TEMPERATURE, "min_tokens": 0, "ignore_eos": False, "stream": False}
    bodies = [chat(MODEL, item.messages[-1]["content"], settings.answer_tokens, **more) for item in found.items]
    async with client(server.url) as http:
        # In the order in which they were asked, which replies to several at once are not in.
        loads = await asyncio.gather(*(all_of(http, [body], 1) for body in bodies))
    replies = [load.replies[0] for load in loads]
    answers = [Answer(item, reply.text) for item, reply in zip(found.items, replies, strict=True)]
    share = sum(verdict.right for verdict in found.judge(answers)) / len(answers)
    low, high = wilson(share, len(answers))
    tokens = sum(reply.tokens for reply in replies) / len(replies)
    cut = sum(reply.finish_reason == "length" for reply in replies) / len(replies)
    return [found.name, f"{share:.2f} [{low:.2f}, {high:.2f}]", number(tokens), f"{cut:.2f}"]


def measured(suites: Sequence[Suite], settings: Settings, stack: ExitStack, progress: Progress) -> Iterator[list[str]]:
    """A row for each suite, as it is done, of a server that is started for them."""
    server = servers.started_redraft(servers.prepared_model(), settings.flags, stack, progress)
    for found in progress.track(suites, description="tasks"):
        yield asyncio.run(asked(server, found, settings))


def main(
    task: Annotated[list[str] | None, typer.Option(help="A suite; may be given more than once.")] = None,
    items: Annotated[int, typer.Option(min=1, help="Of each.")] = 40,
    seed: Annotated[int, typer.Option(help="Which of them.")] = 2,
) -> None:
    """Tell how often one answer is right, so that a task with 30 to 70% can be chosen."""
    try:
        suites = [suite(name, items, seed) for name in task or TASKS]
    except SuiteError as error:
        raise typer.BadParameter(str(error)) from error
    with servers.progress_bar(console) as progress, servers.ended_in_order() as stack:
        print(table(["task", "accuracy", "tokens", "cut"], []), flush=True)
        for row in measured(suites, Settings(), stack, progress):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
