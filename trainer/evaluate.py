"""What a checkpoint makes of held-out problems, as its users get it: from `redraft serve`, by the strategy `revise`.

Each problem is asked twice: greedily, one attempt and what follows from its verification; and by several samples, if
any are wanted, each with its own. Checkpoints that were never taught to refine are asked the same way: their confidence
is P(end), too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from transformers import AutoConfig, AutoTokenizer

from clients.client import AsyncRedraft
from clients.events import Done, Event, Note, Thought
from strategies.revise.strategy import REFINE
from trainer.artefacts import Artefact, ArtefactError
from trainer.grading import Grader, check, graded
from trainer.models import Model
from trainer.problems import check_held_out, problems_of
from trainer.serving import NAME, ServeSettings, all_of, seed_of, served
from trainer.tasks import Problem

ASKED, OUTCOMES = "asked.jsonl", "outcomes.jsonl"


class EvaluateSettings(BaseModel):
    """How held-out problems are asked. Defaults are those of ReVISE (arXiv 2502.14565)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token: str | None = Field(None, description="The refine token; by default the checkpoint's own.")
    rounds: int = Field(1, ge=0, le=8, description="Further attempts at most.")
    threshold: float | None = Field(
        None, ge=0, le=1, description="Think again where the confidence is less; by default the model chooses."
    )
    samples: int = Field(8, ge=0, le=64, description="Side by side, of which votes are made; 0 for a greedy one alone.")
    temperature: float = Field(0.7, gt=0, description="Of the samples.")
    top_p: float = Field(0.9, gt=0, le=1, description="Of the samples.")
    max_tokens: int = Field(256, ge=1, description="Of an attempt.")
    seed: int = Field(0, description="Of the samples.")


def evaluate(
    folder: Path,
    model: Model,
    asked_of: Artefact,
    settings: EvaluateSettings,
    grader: Grader,
    serve: ServeSettings,
    console: Console,
) -> Artefact:
    """Attempts with their confidences and whether they are right, for each problem."""
    parents = {**model.parents, "problems": asked_of}
    made = {**model.settings, **settings.model_dump(), **serve.settings, "grader": grader}
    artefact = Artefact.open(folder, "evaluate", made, parents)
    if artefact.complete:
        return artefact
    lost = check_held_out(asked_of, model.artefact)
    for one in lost:
        console.print(f"[yellow]whether problems were learnt from is unknown:[/yellow] {one} is lost", highlight=False)
    _check_token(model, settings.token)
    check(problems_of(asked_of), grader, asked_of.settings["task"])
    log = artefact.log(ASKED)
    there = {line["problem"] for line in log.begin()}
    known = {problem.id: problem for problem in problems_of(asked_of)}
    missing = [problem for problem in known.values() if problem.id not in there]
    if missing:
        with served(model.served, serve, console) as url:
            asyncio.run(_ask(url, missing, settings, serve, log.add, console))
    # In the order of the problems, whichever was answered first: checkpoints are compared problem by problem.
    by_problem = {line["problem"]: line for line in log.read()}
    lines = [by_problem[problem] for problem in known]
    attempts = [one for line in lines for one in _attempts(line)]
    texts = [(one["text"], known[line["problem"]]) for line in lines for one in _attempts(line)]
    for attempt, verdict in zip(attempts, graded(texts, grader, asked_of.settings["task"]), strict=True):
        attempt["right"] = verdict
    artefact.log(OUTCOMES).write(iter(lines))
    return artefact.finish(problems=len(lines), **({"lost": lost} if lost else {}))


def _check_token(model: Model, token: str | None) -> None:
    """Raises ArtefactError if the strategy would refuse each problem, before anything is served."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model.path)
    name = token or getattr(AutoConfig.from_pretrained(model.path), "refine_token", None) or REFINE
    if name not in tokenizer.get_added_vocab():
        raise ArtefactError(
            f"{model.name} has no token {name!r} to refine with: name one that it has, a spare one will do, as token"
        )


def _attempts(line: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for way in ("greedy", "sampled"):
        if way in line:
            for branch in line[way]["branches"]:
                yield from branch


async def _ask(
    url: str,
    missing: Sequence[Problem],
    settings: EvaluateSettings,
    serve: ServeSettings,
    add: Callable[[Mapping[str, Any]], None],
    console: Console,
) -> None:
    client = AsyncRedraft(f"{url}/v1", "none", NAME)
    params = {"token": settings.token, "rounds": settings.rounds, "threshold": settings.threshold}

    def work(problem: Problem) -> Callable[[], Awaitable[None]]:
        sampling: dict[str, Any] = {"max_tokens": settings.max_tokens, "seed": seed_of(settings.seed, problem)}

        async def one() -> None:
            greedy = client.stream(problem.question, "revise", params, temperature=0, **sampling)
            line: dict[str, Any] = {"problem": problem.id, "greedy": told([event async for event in greedy], 1)}
            if settings.samples:
                several = {**params, "samples": settings.samples}
                random = {**sampling, "temperature": settings.temperature, "top_p": settings.top_p}
                sampled = client.stream(problem.question, "revise", several, **random)
                line["sampled"] = told([event async for event in sampled], settings.samples)
            add(line)

        return one

    await all_of([work(problem) for problem in missing], serve.at_once, "evaluating", console)


def told(events: Sequence[Event], samples: int) -> dict[str, Any]:
    """The attempts of each of so many samples in a stream, with their confidences, and the tokens of all of them."""
    branches: dict[int, list[dict[str, Any]]] = {branch: [] for branch in range(samples)}
    tokens = 0
    for event in events:
        if isinstance(event, Thought):
            attempts = branches.setdefault(event.branch, [])
            if not attempts or "confidence" in attempts[-1]:
                attempts.append({"text": ""})
            attempts[-1]["text"] += event.text
        elif isinstance(event, Note) and event.data.get("kind") == "verified":
            # An attempt of no words is one all the same.
            attempts = branches.setdefault(event.branch, [])
            if not attempts or "confidence" in attempts[-1]:
                attempts.append({"text": ""})
            attempts[-1] |= {key: event.data[key] for key in ("confidence", "refine")}
        elif isinstance(event, Done) and event.usage is not None:
            tokens = event.usage.completion_tokens
    for attempts in branches.values():
        if not attempts:
            # Its first token was its end: it said nothing, and was asked all the same.
            attempts.append({"text": ""})
        for attempt in attempts:
            # One that was cut is not verified.
            attempt.setdefault("confidence", None)
            attempt.setdefault("refine", False)
    return {"tokens": tokens, "branches": [branches[branch] for branch in sorted(branches)]}
