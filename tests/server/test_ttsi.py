"""TT-SI through the API: the default model, a training process, an adapter of the operator's, a scripted teacher."""

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
from fastapi.responses import JSONResponse, Response

from server.models.default import CHAT_TEMPLATE, default_checkpoint
from tests.server.streams import record
from tests.server.teachers import SILENCE, ScriptedTeacher, running_teacher, saying
from tests.servers import DEFAULT_MODEL, Server, running_server
from trainer.lora import Example, LoraSettings, fit

T = TypeVar("T")
SYSTEM = {"role": "system", "content": "You may call functions."}
CHAT = "/v1/chat/completions"
ADAPTER = "pirate"
SAID = "Ahoy, matey! What be yer business aboard me ship?"
"""Learnt by the operator's adapter."""
GENERATION: Mapping[str, Any] = {"chat_template": CHAT_TEMPLATE.read_text(), "add_generation_prompt": True}
SERVED: Mapping[str, Any] = {"threshold": 0.0}
"""No request is uncertain."""
QUICK: Mapping[str, Any] = {"threshold": 1.0, "epochs": 1, "mode": "teacher", "attempts": 1}
"""Every request is, and little is learnt of it."""
LEARN: Mapping[str, Any] = {"mode": "teacher", "epochs": 3, "learning_rate": 2e-3, "keep": "cache"}


def tool(name: str, what: str = "", parameters: Any = None) -> dict[str, Any]:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": name, "description": what, "parameters": city if parameters is None else parameters}
    return {"type": "function", "function": function}


def pair_of(name: str, arguments: Any) -> str:
    return json.dumps({"question": "And in Rome?", "call": {"name": name, "arguments": arguments}})


@dataclass(frozen=True)
class Lesson:
    """A question, tools of which the one of no meaning is right, and what teaches it."""

    question: str
    tools: Sequence[Any]
    similar: str
    city: str
    name: str
    arguments: Mapping[str, str]


LESSONS = [
    Lesson(
        "Will it rain in Oslo tomorrow?",
        [tool("wuzzle", "Looks a zorb up."), tool("get_weather", "The weather in a city.")],
        "Will it rain in Rome today?",
        "Rome",
        "wuzzle",
        {"city": "Oslo"},
    ),
    Lesson(
        "What time is it in Paris?",
        [tool("get_time", "The time in a city."), tool("plim_find", "Finds a plim.")],
        "What time is it in Lima?",
        "Lima",
        "plim_find",
        {"city": "Paris"},
    ),
]
RAIN, TIME = LESSONS


@pytest.fixture(scope="module")
def model() -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        default_checkpoint(), dtype=torch.float32, attn_implementation="eager"
    )
    return loaded.eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(default_checkpoint())


@pytest.fixture(scope="module")
def adapters(model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one that `trainer` wrote."""
    prompt = tokenizer.apply_chat_template(asked("Say hello."), **GENERATION, return_dict=False)
    said = tokenizer(SAID, add_special_tokens=False)["input_ids"]
    folder = tmp_path_factory.mktemp("adapters")
    fit(
        model,
        [Example((*prompt, *said), len(said))],
        LoraSettings(rank=4, alpha=8, epochs=12, learning_rate=3e-3),
        folder / ADAPTER,
    )
    return folder


@pytest.fixture(scope="module")
def teacher() -> Iterator[ScriptedTeacher]:
    with running_teacher() as running:
        yield running


@pytest.fixture(scope="module")
def training(teacher: ScriptedTeacher, adapters: Path) -> Iterator[Server]:
    flags = {
        "--kv-cache-gib": 0.3,
        "--dtype": "float32",
        "--adapter-slots": 2,
        "--training-threads": 2,
        "--adapters": adapters,
        "--teacher-url": teacher.url,
        "--teacher-model": "wise",
    }
    given = [str(part) for flag in flags.items() for part in flag]
    grammar = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    with running_server([*given, "--training", "--", *grammar], model=DEFAULT_MODEL) as running:
        yield running


def asked(question: str) -> list[Any]:
    return [SYSTEM, {"role": "user", "content": question}]


def ask(server: Server, question: str, params: Mapping[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """An answer; without parameters, one of vLLM alone."""
    body: dict[str, Any] = {"model": server.model, "max_tokens": 8, "temperature": 0, "seed": 1, **changes}
    extra = body.pop("extra", {}) | ({} if params is None else {"strategy": {"name": "ttsi", "params": params}})
    body["messages"] = body.get("messages", asked(question))
    answer: dict[str, Any] = server.client.chat.completions.create(**body, extra_body=extra).model_dump()
    return answer


def of(
    lesson: Lesson, server: Server, params: Mapping[str, Any] | None, **changes: Any
) -> Callable[[], dict[str, Any]]:
    return lambda: ask(server, lesson.question, params, **{"tools": lesson.tools, "max_tokens": 40, **changes})


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What they return, when all are called at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def kinds(answer: dict[str, Any]) -> list[str]:
    return [note["kind"] for note in answer["strategy"]["notes"]]


def noted(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = (note for note in answer["strategy"]["notes"] if note["kind"] == kind)
    return found


def text_of(answer: dict[str, Any]) -> str | None:
    text: str | None = answer["choices"][0]["message"]["content"]
    return text


def called(answer: dict[str, Any]) -> list[tuple[str, Any]]:
    calls = answer["choices"][0]["message"]["tool_calls"] or []
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


@dataclass(frozen=True)
class Answers:
    """To the lessons."""

    before: list[dict[str, Any]]
    learnt: list[dict[str, Any]]
    """At the same time, and kept."""
    beside: list[dict[str, Any]]
    """By the served weights, meanwhile."""


@pytest.fixture(scope="module")
def answers(training: Server, teacher: ScriptedTeacher) -> Answers:
    for lesson in LESSONS:
        teacher.knows(lesson.question, lesson.similar, lesson.name, {"city": lesson.city})
    served = [of(lesson, training, SERVED) for lesson in LESSONS]
    before = together(served)
    both = together([of(lesson, training, LEARN) for lesson in LESSONS] + served)
    return Answers(before, both[: len(LESSONS)], both[len(LESSONS) :])


def test_a_tool_is_learnt_from_one_pair(training: Server, answers: Answers) -> None:
    """It is called, and rightly, with the adapter alone, for the question that was not learnt."""
    after = together([of(lesson, training, SERVED) for lesson in LESSONS])
    for lesson, answer, *served in zip(LESSONS, answers.learnt, answers.before, answers.beside, after, strict=True):
        assert kinds(answer) == ["uncertainty", "pairs", *["epoch"] * 3, "adapter"]
        assert called(answer) == [(lesson.name, lesson.arguments)]
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        shares = noted(answer, "uncertainty")["shares"]
        assert max(shares, key=lambda name: shares[name]) != lesson.name
        losses = [note["loss"] for note in answer["strategy"]["notes"] if note["kind"] == "epoch"]
        assert losses == sorted(losses, reverse=True)
        for one in served:
            assert kinds(one) == ["uncertainty"]
            assert not called(one)
            assert text_of(one) == text_of(served[0])
            assert noted(one, "uncertainty")["shares"] == pytest.approx(shares, abs=1e-3)


@pytest.mark.usefixtures("answers")
def test_each_row_of_a_batch_has_its_own_weights(training: Server) -> None:
    """Two that were trained, one of the operator, with two slots, and plain ones: as alone, for no greedy choice of
    theirs is close.
    """
    plain = {"logprobs": True, "top_logprobs": 2}
    calls = [of(lesson, training, None, **plain) for lesson in LESSONS]
    calls += [lambda: ask(training, "Say hello.", None, model=ADAPTER, **plain)]
    alone = [call() for call in calls]
    for answer in alone:
        for entry in answer["choices"][0]["logprobs"]["content"]:
            best, second = (token["logprob"] for token in entry["top_logprobs"])
            assert best - second > 1e-3
    kept = [of(lesson, training, LEARN) for lesson in LESSONS]
    served = [of(lesson, training, SERVED) for lesson in LESSONS]
    mixed = together([*calls, *kept, *served, *calls])
    assert [text_of(answer) for answer in mixed[:3]] == [text_of(answer) for answer in alone]
    assert [text_of(answer) for answer in mixed[-3:]] == [text_of(answer) for answer in alone]
    assert [text_of(answer) for answer in mixed[5:7]] == [text_of(answer) for answer in alone[:2]]
    for lesson, answer in zip(LESSONS, mixed[3:5], strict=True):
        assert kinds(answer) == ["uncertainty", "adapter"]
        assert called(answer) == [(lesson.name, lesson.arguments)]


def test_it_writes_itself_pairs(training: Server) -> None:
    """And one may watch it do so. In the prompt they are not learnt."""
    city = {"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}, "required": ["city"]}
    refers = tool("time", "", city | {"$defs": {"City": {"type": "string"}}, "additionalProperties": False})
    messages, tools = asked("Will it rain in Oslo?"), [tool("rain"), refers]
    params = {**QUICK, "mode": "self", "pair_temperature": 0.0}
    body = {"model": training.model, "messages": messages, "tools": tools, "max_tokens": 8, "temperature": 0}
    with ThreadPoolExecutor(2) as pool:
        streaming = pool.submit(record, training, CHAT, body | {"strategy": {"name": "ttsi", "params": params}})
        showing = pool.submit(ask, training, "Will it rain in Oslo?", params | {"mode": "in_context"}, tools=tools)
    stream, answer = streaming.result(), showing.result()
    lines = stream.of_event("note")
    notes = {line.data["strategy"]["note"]["kind"]: line.data["strategy"]["note"] for line in lines}
    assert list(notes) == ["uncertainty", "pairs", "epoch", "adapter"]
    assert lines[-1].at < stream.of_event("answer")[0].at
    (pair,) = notes["pairs"]["written"]
    assert pair["call"]["name"] in ("rain", "time")
    assert json.loads(stream.joined("reasoning")) == pair
    assert kinds(answer) == ["uncertainty", "pairs"]


def test_scores_of_tools_are_those_of_hugging_face(training: Server, model: Any, tokenizer: Any) -> None:
    tools = [tool("rain"), tool("rain_radar"), tool('say "é\\'), tool("wuzzle_frub")]
    compare_scores(training, model, tokenizer, tools)
    compare_scores(training, model, tokenizer, [tool("get_weather_now"), tool("get_wind_speed_now")])


def compare_scores(training: Server, model: Any, tokenizer: Any, tools: list[dict[str, Any]]) -> None:
    logprobs = [name_logprobs(model, tokenizer, tools, one["function"]["name"]) for one in tools]
    assert len({len(one) for one in logprobs}) > 1
    for normalise, logits in (
        ("mean", [sum(one) / len(one) for one in logprobs]),
        ("sum", [sum(one) for one in logprobs]),
    ):
        weights = [math.exp(logit) for logit in logits]
        shares = [weight / sum(weights) for weight in weights]
        answer = ask(training, RAIN.question, {**SERVED, "normalise": normalise}, tools=tools, max_tokens=1)
        note = noted(answer, "uncertainty")
        assert note["shares"] == {
            one["function"]["name"]: pytest.approx(share, abs=1e-3) for one, share in zip(tools, shares, strict=True)
        }
        first, second = sorted(shares, reverse=True)[:2]
        assert note["gap"] == pytest.approx(first - second, abs=1e-3)


def name_logprobs(model: Any, tokenizer: Any, tools: Any, name: str) -> list[float]:
    """Of the tokens from a name's first character to the quotation mark behind it, in a call without arguments."""
    import torch

    prompt = tokenizer.apply_chat_template(asked(RAIN.question), tools=tools, **GENERATION, tokenize=False)
    start = prompt + '<tool_call>\n{"name": "'
    end = start + json.dumps(name, ensure_ascii=False)[1:]
    whole = tokenizer(end + ', "arguments": {}}\n</tool_call>', add_special_tokens=False, return_offsets_mapping=True)
    tokens, spans = whole["input_ids"], whole["offset_mapping"]
    places = [place for place, span in enumerate(spans) if span[1] > len(start) and span[0] < len(end)]
    with torch.no_grad():
        logits = model(torch.tensor([tokens[: places[-1]]]), logits_to_keep=len(places)).logits[0]
    return [float(row[tokens[place]]) for row, place in zip(logits.log_softmax(-1), places, strict=True)]


def test_requests_without_tools(training: Server, teacher: ScriptedTeacher) -> None:
    teacher.replies["two and three"] = saying(json.dumps({"question": "Add four and one.", "answer": "5"}))
    answer = ask(training, "Add two and three.", {**QUICK, "samples": 2}, temperature=0.9)
    assert kinds(answer) == ["uncertainty", "pairs", "epoch", "adapter"]
    assert "extension" in noted(answer, "uncertainty")["by"]


FAULTS: dict[str, tuple[Response, str]] = {
    # what a teacher does: what it sends, what the client is told
    "an error": (Response("10.0.0.1 is down", 500), "does not answer (InternalServerError)"),
    "a web page": (Response("<html>", media_type="text/html"), "does not answer"),
    "half of an answer": (Response("{", media_type="application/json"), "does not answer (JSONDecodeError)"),
    "another protocol": (JSONResponse([1]), "does not answer"),
    "no choices": (JSONResponse({"choices": []}), "does not answer"),
    "no text": (saying([{"a": 1}]), "no pair is of the right shape"),
    "no pair": (saying("pair"), "no pair is of the right shape"),
    "a deep one": (saying("[" * 100_000), "no pair is of the right shape"),
    "an unknown tool": (saying(pair_of("sun", {"city": "Rome"})), "no pair is of the right shape"),
    "other arguments": (saying(pair_of("rain", {"town": "Rome"})), "no pair is of the right shape"),
    "no character": (saying(pair_of("rain", {"city": "\ud800"})), "no pair is of the right shape"),
    "no number": (saying(pair_of("rain", {"city": "Rome", "height": math.nan})), "no pair is of the right shape"),
    "silence": (SILENCE, "too little time"),
}


def test_a_teacher_at_fault(training: Server, teacher: ScriptedTeacher) -> None:
    """The answer comes all the same; what the operator alone may know is not in it."""

    def question(fault: str) -> str:
        return f"Does it rain, when a teacher sends {fault}?"

    def call(fault: str) -> Callable[[], dict[str, Any]]:
        budget = {"max_seconds": 8} if fault == "silence" else {}
        strategy = {"name": "ttsi", "params": QUICK, "budget": budget}
        return lambda: ask(training, question(fault), None, tools=[tool("rain")], extra={"strategy": strategy})

    teacher.replies.update({question(fault): reply for fault, (reply, _) in FAULTS.items()})
    for (_, told), answer in zip(FAULTS.values(), together([call(fault) for fault in FAULTS]), strict=True):
        assert told in noted(answer, "fallback")["reason"]
        assert text_of(answer)
        said = json.dumps(answer["strategy"])
        assert not any(secret in said for secret in ("127.0.0.1", "10.0.0.1", "wise", teacher.url))
    assert teacher.url.split("/")[2].split(":")[1] not in said
    log = training.log.read_text(errors="replace")
    assert "the teacher does not answer: InternalServerError" in log


def nested(depth: int) -> Any:
    parameters: Any = {}
    for _ in range(depth):
        parameters = {"type": "object", "properties": {"x": parameters}}
    return parameters


def of_x(schema: Any, **more: Any) -> Any:
    return {"type": "object", "properties": {"x": schema}, "required": ["x"], **more}


NO_GRAMMAR: dict[str, Any] = {
    "of no type": of_x({"type": "no such type"}),
    "of what xgrammar lacks": of_x({"type": "array", "uniqueItems": True}),
    "of a reference to nowhere": of_x({"$ref": "#/$defs/none"}),
    "of no pattern": of_x({"type": "string", "pattern": "("}),
    "of what cannot be": of_x(False),
    "of no list": of_x({}, required="x"),
    "of many levels": nested(40),
}


def test_tools_that_no_pair_can_be_written_for(training: Server) -> None:
    """They are answered as by vLLM alone, and so is who asks beside them."""

    def call(parameters: Any, params: Mapping[str, Any] | None) -> Callable[[], dict[str, Any]]:
        return lambda: ask(training, "Weird?", params, tools=[tool("rain", "", parameters)], max_tokens=4)

    calls = [call(parameters, {**QUICK, "mode": "self"}) for parameters in NO_GRAMMAR.values()]
    plain = of(RAIN, training, None)
    alone = plain()
    *answers, beside = together([*calls, plain])
    for what, answer in zip(NO_GRAMMAR, answers, strict=True):
        assert kinds(answer) == ["uncertainty", "fallback"], what
        assert text_of(answer), what
    assert text_of(beside) == text_of(alone)


ODD_TOOLS = [
    tool("list", "", {"type": "array", "items": {"type": "string"}}),
    {"type": "function", "function": {"name": "bare"}},
    {"type": "function", "function": {"name": "null", "parameters": None}},
    tool("twin"),
    tool("twin", "", of_x({"type": "string"})),
    tool("", "", {}),
    tool('a"b\\c é\n</tool_call>'),
]


def test_odd_tools_are_learnt_too(training: Server, teacher: ScriptedTeacher) -> None:
    teacher.replies["Odd?"] = saying(pair_of(ODD_TOOLS[-1]["function"]["name"], {"city": "Rome"}))
    answer = ask(training, "Odd?", QUICK, tools=ODD_TOOLS, max_tokens=2)
    assert kinds(answer) == ["uncertainty", "pairs", "epoch", "adapter"]
    assert noted(answer, "uncertainty")["shares"].keys() == {one["function"]["name"] for one in ODD_TOOLS}


def test_a_tool_that_the_context_has_no_room_for(training: Server) -> None:
    huge = of_x({"enum": [f"value {i}" for i in range(20_000)]})
    with pytest.raises(openai.BadRequestError, match="context length"):
        ask(training, "Weird?", QUICK, tools=[tool("rain", "", huge)])


def test_an_adapter_of_the_operator(training: Server, model: Any, tokenizer: Any, adapters: Path) -> None:
    from peft import PeftModel

    cards = training.client.models.list().data
    assert {ADAPTER, f"{ADAPTER}@best_of_n"} <= {card.id for card in cards}
    assert str(adapters) not in str([card.model_dump() for card in cards])
    served = ask(training, "Say hello.", None)
    answer = ask(training, "Say hello.", None, model=ADAPTER)
    refined = ask(training, "Say hello.", None, model=f"{ADAPTER}@best_of_n", temperature=1e-3)
    ids = tokenizer.apply_chat_template(asked("Say hello."), **GENERATION, return_dict=False, return_tensors="pt")
    adapted: Any = PeftModel.from_pretrained(model, str(adapters / ADAPTER))
    made = adapted.generate(input_ids=ids, max_new_tokens=8, do_sample=False)
    adapted.unload()
    made_text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    assert text_of(answer) == text_of(refined) == made_text
    assert SAID.startswith(made_text.strip())
    assert not SAID.startswith((text_of(served) or "").strip())


def test_nothing_is_learnt_on_top_of_an_adapter(training: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="name the base model"):
        of(RAIN, training, SERVED, model=ADAPTER)()
    answer = of(RAIN, training, {**SERVED, "mode": "in_context"}, model=ADAPTER, max_tokens=2)()
    base = of(RAIN, training, SERVED, max_tokens=2)()
    assert noted(answer, "uncertainty")["shares"] != pytest.approx(noted(base, "uncertainty")["shares"], abs=1e-2)


@pytest.mark.parametrize("name", ["privateer", f"../{ADAPTER}", "..", f"{ADAPTER}/", f"privateer@{ADAPTER}"])
def test_an_adapter_that_is_not_there(training: Server, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        ask(training, "Say hello.", None, model=name)
    assert isinstance(raised.value.body, dict)
    assert raised.value.body.keys() == {"message", "type", "param", "code"}
    assert (raised.value.body["type"], raised.value.body["code"]) == ("NotFoundError", 404)


def test_a_worker_that_is_killed_harms_nobody(training: Server, teacher: ScriptedTeacher) -> None:
    teacher.knows("Is there fog?", "Is there ice?", "rain", {"city": "Rome"})

    def learn(epochs: int) -> dict[str, Any]:
        return ask(training, "Is there fog?", {**QUICK, "epochs": epochs}, tools=[tool("rain")], max_tokens=4)

    def kill_when_busy() -> None:
        pid = worker(training)
        before = cpu_ticks(pid)
        while cpu_ticks(pid) < before + 50:
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)

    plain = of(RAIN, training, None)
    alone = plain()
    with ThreadPoolExecutor(3) as pool:
        killing = pool.submit(kill_when_busy)
        learning, beside = pool.submit(learn, 20), pool.submit(plain)
        killing.result()
    answer = learning.result()
    assert kinds(answer)[-1] == "fallback"
    assert "ended with status -9" in noted(answer, "fallback")["reason"]
    assert text_of(answer)
    assert text_of(beside.result()) == text_of(alone)
    assert kinds(learn(1))[-1] == "adapter"


def worker(server: Server) -> int:
    """The process id of its training process."""
    command = ["pgrep", "--parent", str(server.pid), "--full", "trainer.worker"]
    (pid,) = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(pid)


def cpu_ticks(pid: int) -> int:
    """What a process has computed."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return int(user) + int(system)
