"""What SRGen costs: `python -m benchmarks.srgen`.

Tokens per second with SRGen over without, by one server in turn, at the paper's defaults and at a threshold forced to
about 6 corrections in 256 tokens; the same method in plain Hugging Face, batch 1; memory over 500 requests; and the
entropies of one answer.
"""

import asyncio
import datetime
import random
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil  # type: ignore[import-untyped]
import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks import machine, servers
from benchmarks.hf_srgen import Answer
from benchmarks.hf_srgen import Settings as Method
from benchmarks.journal import Journal
from benchmarks.load import Reply, all_of, chat, client, prompt
from benchmarks.servers import MODEL, EngineFlags, Server
from benchmarks.srgen_report import ARMS, DEFAULT, FORCED, ONE_STEP, PLAIN, report

RESULTS = Path(__file__).parent / "results"
MEMORY_LINE = re.compile(r"srgen keeps (\d+) bytes beside each of (\d+) slots of the KV cache, and up to (\d+) MiB")
TARGET = 6.0
console = Console(stderr=True)


@dataclass(frozen=True)
class Settings:
    """What decides the numbers; a journal of other settings is not continued."""

    quick: bool = False
    seed: int = 1
    rounds: int = 4
    tokens: int = 256
    words: int = 30
    temperature: float = 0.7
    calibration_waves: int = 3
    concurrency: tuple[int, ...] = (1, 8, 16)
    hf_answers: int = 3
    soak_requests: int = 500
    flags: EngineFlags = field(default_factory=EngineFlags)
    versions: dict[str, str] = field(default_factory=machine.versions)
    code: str = field(default_factory=machine.measured_code)


def at_threshold(threshold: float, tokens: int) -> dict[str, Any]:
    """Parameters whose threshold is the same at every token."""
    return {"window": min(tokens, 256), "warmup_threshold": threshold, "max_activations": tokens}


def arm(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a request of an arm carries."""
    if name == PLAIN:
        return {}
    chosen = {DEFAULT: {}, FORCED: params, ONE_STEP: {**params, "steps": 1}}[name]
    return {"strategy": {"name": "srgen", "params": chosen}}


def activations(reply: Reply) -> int:
    """Corrections of one answer."""
    return sum(note["kind"] == "activation" for note in reply.strategy.get("notes", ()))


async def wave(
    settings: Settings, server: Server, concurrency: int, draw: random.Random, more: Mapping[str, Any]
) -> dict[str, float]:
    """So many answers side by side, of prompts that are new; one answer alone is measured twice."""
    count = max(2, concurrency)
    bodies = [
        chat(
            MODEL,
            prompt(draw, settings.words),
            settings.tokens,
            temperature=settings.temperature,
            seed=draw.randrange(2**31),
            stream=False,
            **more,
        )
        for _ in range(count)
    ]
    async with client(server.url) as http:
        load = await all_of(http, bodies, concurrency)
    return {
        "tokens_per_second": load.tokens / load.seconds,
        "activations": sum(activations(reply) for reply in load.replies) / count,
    }


async def calibrate(settings: Settings, server: Server, progress: Progress) -> dict[str, float]:
    """The threshold that about so many entropies of an answer exceed, by bisection.

    The same prompts at every threshold, several waves of them: answers differ much in how often they are uncertain.
    """
    low, high = 0.5, 8.0
    task = progress.add_task("looking for the threshold", total=None)
    for _ in range(8):
        threshold = (low + high) / 2
        more = arm(FORCED, at_threshold(threshold, settings.tokens))
        draw, counts = random.Random(settings.seed), []
        for _ in range(settings.calibration_waves):
            counts.append((await wave(settings, server, max(settings.concurrency), draw, more))["activations"])
        found = sum(counts) / len(counts)
        progress.update(task, description=f"threshold {threshold:.2f}: {found:.1f} corrections an answer")
        if abs(found - TARGET) < 0.5:
            break
        low, high = (threshold, high) if found > TARGET else (low, threshold)
    progress.remove_task(task)
    return {"threshold": threshold, "activations": found}


async def measure(settings: Settings, server: Server, journal: Journal, progress: Progress) -> None:
    """All arms at all loads, in an order shuffled for each round; then the soak."""
    if "calibration" not in journal.entries:
        journal.add("calibration", await calibrate(settings, server, progress))
    params = at_threshold(journal.entries["calibration"]["threshold"], settings.tokens)
    cells = [
        (number_, concurrency, name)
        for number_ in range(settings.rounds)
        for concurrency in settings.concurrency
        for name in random.Random(f"{settings.seed} {number_} {concurrency}").sample(ARMS, len(ARMS))
    ]
    task = progress.add_task("rounds", total=len(cells))
    for number_, concurrency, name in cells:
        key = f"speed/{concurrency:02}/{name}/{number_:02}"
        if key not in journal.entries:
            # The same prompts and seeds for all arms of a round; their own cache, so that none has it warm.
            draw = random.Random(f"{settings.seed} {number_} {concurrency}")
            more = arm(name, params) | {"cache_salt": key.replace("/", " ")}
            journal.add(key, await wave(settings, server, concurrency, draw, more))
        progress.advance(task)
    if "soak" not in journal.entries:
        journal.add("soak", await soak(settings, server, progress))


async def soak(settings: Settings, server: Server, progress: Progress) -> dict[str, Any]:
    """Many short requests of all lengths, corrected at most tokens; memory of the worker as they go."""
    draw = random.Random(settings.seed)
    eager = {"window": 4, "sensitivity": 0.2, "min_std": 0.1, "min_threshold": 0.5, "warmup_threshold": 0.5}
    task = progress.add_task("soak", total=settings.soak_requests)
    memory, made, parts = [worker_mib(server)], 0, 10
    async with client(server.url) as http:
        for _ in range(parts):
            bodies = [
                chat(
                    MODEL,
                    prompt(draw, draw.randint(1, 200)),
                    draw.randint(4, 24),
                    temperature=0.7,
                    seed=1,
                    stream=False,
                )
                | arm(FORCED, eager)
                for _ in range(settings.soak_requests // parts)
            ]
            load = await all_of(http, bodies, max(settings.concurrency))
            made += sum(activations(reply) for reply in load.replies)
            memory.append(worker_mib(server))
            progress.advance(task, len(bodies))
    return {"memory_mib": memory, "requests": parts * (settings.soak_requests // parts), "activations": made}


def worker_mib(server: Server) -> float:
    """Resident memory of the engine's processes."""
    children = psutil.Process(server.front.pid).children(recursive=True)
    return float(sum(child.memory_info().rss for child in children if child.is_running())) / 2**20


def hugging_face(settings: Settings, path: str, dtype: str, threshold: float, progress: Progress) -> dict[str, Any]:
    """The same method in plain Hugging Face, one answer after the other; and the trace of a greedy answer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.hf_srgen import generate

    torch.set_num_threads(machine.cores())
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
    draw = random.Random(settings.seed)
    arms = {PLAIN: Method(warmup_threshold=1e9, min_threshold=1e9, window=settings.tokens)}
    forced = at_threshold(threshold, settings.tokens)
    arms |= {DEFAULT: Method(), FORCED: Method(**forced), ONE_STEP: Method(**forced, steps=1)}
    result: dict[str, Any] = {name: [] for name in arms}
    task = progress.add_task(f"Hugging Face, {dtype}", total=settings.hf_answers * len(arms))
    for number_ in range(settings.hf_answers):
        ids = _ids(tokenizer, prompt(draw, settings.words))
        for name, method in arms.items():
            began = time.perf_counter()
            answer = generate(
                model,
                ids,
                method,
                settings.tokens,
                temperature=settings.temperature,
                generator=torch.Generator().manual_seed(number_),
            )
            seconds = time.perf_counter() - began
            result[name].append(
                {"tokens_per_second": settings.tokens / seconds, "activations": len(answer.activations)}
            )
            progress.advance(task)
    ids = _ids(tokenizer, QUESTION)
    result["trace"] = trace(generate(model, ids, SHOWN, settings.tokens))
    return result


def _ids(tokenizer: Any, text: str) -> list[int]:
    talk = [{"role": "user", "content": text}]
    found: list[int] = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    return found


def trace(answer: Answer) -> dict[str, Any]:
    """What the plot of one answer needs."""
    return {
        "entropies": answer.entropies,
        "thresholds": answer.thresholds,
        "positions": [activation.position for activation in answer.activations],
        "after": [activation.entropy_after for activation in answer.activations],
    }


async def shown_notes(server: Server, tokens: int) -> list[Mapping[str, Any]]:
    """The server's own corrections of the answer whose entropies are plotted."""
    shown = asdict(SHOWN)
    body = chat(MODEL, QUESTION, tokens, stream=False, strategy={"name": "srgen", "params": shown})
    async with httpx.AsyncClient(base_url=server.url, timeout=None, trust_env=False) as http:
        answer = (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()
    return [note for note in answer["strategy"]["notes"] if note["kind"] == "activation"]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of three minutes.")] = False,
    rounds: Annotated[int, typer.Option(help="Rounds of all arms.")] = 4,
    seed: Annotated[int, typer.Option(help="Decides prompts and draws.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the report; --quick writes to quick/ in it.")] = RESULTS,
) -> None:
    """Measures and writes the report."""
    settings = Settings(seed=seed, rounds=rounds)
    if quick:
        settings = Settings(
            True, seed, 1, tokens=32, calibration_waves=1, concurrency=(1, 4), hf_answers=1, soak_requests=40
        )
    folder = output / "quick" if quick else output
    journal = Journal.open(folder / "srgen.json", asdict(settings))
    model = servers.prepared_model()
    with servers.progress_bar(console) as progress, servers.ended_in_order() as stack:
        server = servers.started_redraft(model, settings.flags, stack, progress)
        line = MEMORY_LINE.search(server.log_path.read_text(errors="replace"))
        assert line is not None, "the engine did not say what it keeps"
        journal.facts |= {
            "date": datetime.date.today().isoformat(),
            "command": machine.command("benchmarks.srgen"),
            "machine": machine.describe(),
            "server": server.command(),
            "dtype": server.dtype(),
            "memory": {"bytes": int(line[1]), "slots": int(line[2]), "kept": int(line[3])},
        }
        asyncio.run(measure(settings, server, journal, progress))
        notes = asyncio.run(shown_notes(server, settings.tokens))
        journal.facts["shown"] = [note["position"] for note in notes]
    with servers.progress_bar(console) as progress:
        if "hugging_face" not in journal.entries:
            threshold = journal.entries["calibration"]["threshold"]
            found = {
                dtype: hugging_face(settings, model, dtype, threshold, progress) for dtype in ("float32", "bfloat16")
            }
            dtype = max(found, key=lambda d: sum(entry["tokens_per_second"] for entry in found[d][FORCED]))
            journal.add(
                "hugging_face", {**found[dtype], "dtype": dtype, "trace": found[journal.facts["dtype"]]["trace"]}
            )
    journal.complete = True
    journal.save()
    console.print(f"[green]report:[/green] {report(journal, asdict(SHOWN), folder)}", highlight=False, soft_wrap=True)


QUESTION = "Explain in a few sentences why the sky is blue, and why it turns red in the evening."
SHOWN = Method(window=25, sensitivity=2.0, min_threshold=1.5)
if __name__ == "__main__":
    typer.run(main)
