"""Answers of a model to problems, as vLLM generates them behind the chat template that it is served with."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from trainer.artefacts import Artefact, ArtefactError
from trainer.models import Model
from trainer.problems import problems_of
from trainer.serving import ServeSettings, all_of, asked, client, seed_of, served
from trainer.tasks import Problem

SAMPLES = "samples.jsonl"


class SampleSettings(BaseModel):
    """How answers are sampled. Defaults are those of ReVISE (arXiv 2502.14565)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(10, ge=1, description="Of each problem.")
    temperature: float = Field(0.7, ge=0, description="Of the samples.")
    top_p: float = Field(0.9, gt=0, le=1, description="Of the samples.")
    max_tokens: int = Field(256, ge=1, description="Of a sample; one that is cut is not used.")
    seed: int = Field(0, description="Of all samples.")


def sample(
    folder: Path, model: Model, asked_of: Artefact, settings: SampleSettings, serve: ServeSettings, console: Console
) -> Artefact:
    """Answers of a model to problems, as vLLM generates them behind the chat template that it is served with."""
    parents = {**model.parents, "problems": asked_of}
    made = {**model.settings, **settings.model_dump(), **serve.settings}
    artefact = Artefact.open(folder, "sample", made, parents)
    if artefact.complete:
        return artefact
    log = artefact.log(SAMPLES)
    there = {line["problem"] for line in log.begin()}
    missing = [problem for problem in problems_of(asked_of) if problem.id not in there]
    if missing:
        with served(model.served, serve, console) as url:
            asyncio.run(_sample(url, missing, settings, serve, log.add, console))
    lines = log.read()
    refused = sum("refused" in line for line in lines)
    if refused == len(lines):
        raise ArtefactError(f"{folder}: all {refused} problems were refused: {lines[0]['refused'] if lines else ''}")
    return artefact.finish(samples=len(lines), refused=refused, model=model.name)


async def _sample(
    url: str,
    missing: Sequence[Problem],
    settings: SampleSettings,
    serve: ServeSettings,
    add: Callable[[Mapping[str, Any]], None],
    console: Console,
) -> None:
    async with client(url) as http:

        def work(problem: Problem) -> Callable[[], Awaitable[None]]:
            async def one() -> None:
                body = {
                    "messages": [{"role": "user", "content": problem.question}],
                    "n": settings.samples,
                    "temperature": settings.temperature,
                    "top_p": settings.top_p,
                    "max_tokens": settings.max_tokens,
                    "seed": seed_of(settings.seed, problem),
                    "return_token_ids": True,
                }
                try:
                    answer = await asked(http, body)
                except httpx.HTTPStatusError as error:
                    if error.response.status_code != 400:
                        raise
                    # Such as one that is too long: the next run would meet it again.
                    add({"problem": problem.id, "prompt": [], "samples": [], "refused": str(error)})
                    return
                samples = [
                    {"token_ids": choice["token_ids"], "finish_reason": choice["finish_reason"]}
                    for choice in sorted(answer["choices"], key=lambda choice: int(choice["index"]))
                ]
                add({"problem": problem.id, "prompt": answer["prompt_token_ids"], "samples": samples})

            return one

        await all_of([work(problem) for problem in missing], serve.at_once, "sampling", console)
