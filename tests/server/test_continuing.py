"""Strategies that continue an answer where it stopped, through the API: iterative deepening and ReVISE."""

import math
from functools import cache
from typing import Any

import openai
import pytest

from server.models.resolution import resolve_default
from tests.server.streams import record
from tests.servers import DEFAULT_MODEL, Server, Spent

CHAT = "/v1/chat/completions"
QUESTION: Any = [{"role": "user", "content": "Tom has 12 apples and buys 7 more. How many has he?"}]
TRIGGER = "\n\nWait, let me think again.\n\n"
BLOCK = 32
EAGER: dict[str, Any] = {"window": 4, "sensitivity": 0.2, "min_std": 0.1, "min_threshold": 0.5, "warmup_threshold": 0.5}
"""SRGen fires at every few tokens."""


def ask(server: Server, name: str, params: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changes = {"max_tokens": 96, "temperature": 0, **changes}
    body = {"strategy": {"name": name, "params": params}, "ignore_eos": changes.pop("ignore_eos", False)}
    answer: dict[str, Any] = server.client.chat.completions.create(
        model=server.model, messages=QUESTION, extra_body=body, **changes
    ).model_dump()
    return answer


def notes_of(answer: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [note for note in answer["strategy"]["notes"] if note["kind"] == kind]


@cache
def hugging_face() -> tuple[Any, Any]:
    """The served model and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve_default(DEFAULT_MODEL, lambda step: None).path
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def deepening(**params: Any) -> dict[str, Any]:
    return {"samples": 1, "first_budget": 40, "max_rounds": 2, "trigger": TRIGGER, **params}


def test_one_growing_answer(server: Server) -> None:
    before = server.settled()
    answer = ask(server, "iterative_deepening", deepening(growth=1.5), ignore_eos=True)
    spent = Spent.between(before, server.settled())
    (choice,) = answer["choices"]
    content = choice["message"]["content"]
    triggers = notes_of(answer, "trigger")
    assert [(note["round"], note["tokens"]) for note in triggers] == [(1, 40), (2, 60)]
    assert content.count(TRIGGER) >= 2  # So small a model may repeat it.
    assert choice["finish_reason"] == "length"
    usage, given = answer["usage"], sum(1 for _ in triggers) * len(hugging_face()[1].encode(TRIGGER))
    assert usage["completion_tokens"] == spent.completion == 96 - given
    assert usage["prompt_tokens"] == spent.prompt
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
    # Its first part is the plain answer.
    plain = server.client.chat.completions.create(
        model=server.model, messages=QUESTION, max_tokens=40, temperature=0, extra_body={"ignore_eos": True}
    )
    assert content.startswith(plain.choices[0].message.content or "-")


def test_a_thought_is_doubted_before_its_end(server: Server) -> None:
    """With a full stop in the place of </think>, which this model does not write."""
    plain = server.client.chat.completions.create(
        model=server.model, messages=QUESTION, max_tokens=40, temperature=0, extra_body={"ignore_eos": True}
    )
    text = plain.choices[0].message.content or ""
    thought, end, rest = text.partition(".")
    assert thought and end and rest
    trigger = "\n\nWait, no\n\n"
    answer = ask(
        server, "iterative_deepening", deepening(think_end=".", trigger=trigger, max_rounds=1), ignore_eos=True
    )
    (note,) = notes_of(answer, "trigger")
    assert answer["choices"][0]["message"]["content"].startswith(thought + trigger)
    tokenizer = hugging_face()[1]
    assert note["dropped"] == 40 - len(tokenizer.encode(thought))
    # As long as before, with the sentence; what was dropped is made anew.
    assert answer["usage"]["completion_tokens"] == 96 + note["dropped"] - len(tokenizer.encode(trigger))


def test_a_round_computes_no_more_than_trigger_and_a_block(server: Server) -> None:
    """All else of its prompt comes from the prefix cache: of each round of each sample."""
    params = deepening(max_rounds=3, first_budget=50, samples=3)
    answer = ask(server, "iterative_deepening", params, ignore_eos=True, max_tokens=400, temperature=0.8, seed=1)
    triggers = notes_of(answer, "trigger")
    assert sorted((note["branch"], note["round"]) for note in triggers) == [(i, r) for i in range(3) for r in (1, 2, 3)]
    most = len(hugging_face()[1].encode(TRIGGER)) + BLOCK
    assert all(0 < note["recomputed"] <= most for note in triggers)
    engine = answer["strategy"]["engine"]
    prompt = engine["prompt_tokens"] - engine["cached_tokens"] - sum(note["recomputed"] for note in triggers)
    assert prompt <= 3 * 2 * BLOCK  # What the samples have in common is computed once.


def test_samples_are_aggregated(server: Server) -> None:
    params = deepening(samples=3, max_rounds=1, first_budget=30)
    voted = ask(server, "iterative_deepening", params, temperature=0.8, seed=3)
    assert voted["strategy"]["engine"]["requests"] >= 3
    assert sum(notes_of(voted, "result")[0]["votes"].values()) <= 3
    for scorer in ("mean_logprob", "self_certainty"):
        answer = ask(server, "iterative_deepening", params | {"aggregate": scorer}, temperature=0.8, seed=3)
        scores = notes_of(answer, "score")
        assert [note["branch"] for note in scores] == [0, 1, 2]
        assert all(math.isfinite(note["score"]) for note in scores)


def test_triggers_are_streamed(server: Server) -> None:
    request = {
        "model": server.alias("iterative_deepening"),
        "messages": QUESTION,
        "max_tokens": 300,
        "temperature": 0.8,
        "ignore_eos": True,
        "seed": 1,
    }
    stream = record(server, CHAT, request)
    triggers = [line for line in stream.of_event("note") if line.data["strategy"]["note"]["kind"] == "trigger"]
    assert {line.data["strategy"]["branch"] for line in triggers} == {0, 1, 2, 3}
    assert triggers[0].at < stream.of_event("answer")[0].at


def test_log_probabilities_of_what_the_model_said(server: Server) -> None:
    answer = ask(server, "iterative_deepening", deepening(max_rounds=1), ignore_eos=True, logprobs=True, max_tokens=60)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == 60
    trigger = len(hugging_face()[1].encode(TRIGGER))
    assert [entry["logprob"] == -9999.0 for entry in content] == [False] * 40 + [True] * trigger + [False] * (
        20 - trigger
    )


def test_a_grammar_is_refused(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="response_format"):
        ask(server, "iterative_deepening", deepening(), response_format={"type": "json_object"})


@pytest.mark.parametrize("name", ["iterative_deepening", "revise"])
def test_srgen_within(server: Server, name: str) -> None:
    own = deepening() if name == "iterative_deepening" else {"mode": "prompted", "rounds": 2}
    answer = ask(server, f"{name}+srgen", {name: own, "srgen": EAGER})
    activations = notes_of(answer, "activation")
    assert activations
    assert {note["role"] for note in activations} == {"attempt"}
    if name == "iterative_deepening":
        # One text: positions go on, and the trigger's words are part of it.
        positions = [note["position"] for note in activations]
        assert positions == sorted(set(positions))
        assert max(positions) > 40


def test_confidence_is_the_probability_of_the_end(server: Server) -> None:
    """Against Hugging Face, with a spare token in the place of a trained one."""
    import torch

    answer = ask(server, "revise", {"token": "<file_sep>", "rounds": 0}, max_tokens=256)
    assert answer["choices"][0]["finish_reason"] == "stop"
    (verified,) = notes_of(answer, "verified")
    model, tokenizer = hugging_face()
    with server.http as http:
        prompt = http.post("/tokenize", json={"model": server.model, "messages": QUESTION}).json()["tokens"]
    said = tokenizer.encode(answer["choices"][0]["message"]["content"], add_special_tokens=False)
    with torch.no_grad():
        p = model(torch.tensor([[*prompt, *said]])).logits[0, -1].softmax(-1)
    ends = {tokenizer.eos_token_id, model.generation_config.eos_token_id}
    assert verified["confidence"] == pytest.approx(float(sum(p[end] for end in ends)), abs=1e-4)
    assert not verified["refine"]


@pytest.mark.parametrize("token", ["<|refine|>", " apples", "<|im_end|>", "<unknown>"])
def test_a_checkpoint_without_the_token(server: Server, token: str) -> None:
    """A word is no token of its own, nor is what ends every answer."""
    with pytest.raises(openai.BadRequestError, match=r"trained for revise.*prompted"):
        ask(server, "revise", {"token": token})


def test_a_grammar_is_refused_by_trained_models(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="response_format"):
        ask(server, "revise", {"token": "<file_sep>"}, response_format={"type": "json_object"})


def test_the_least_growth_holds_nobody_up(server: Server) -> None:
    params = deepening(growth=math.nextafter(1, 2), first_budget=1)
    answer = ask(server, "iterative_deepening", params, ignore_eos=True)
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_stop_string_over_two_rounds(server: Server) -> None:
    """Nothing of it is in the answer, in its log-probabilities or among its visible tokens."""
    whole = ask(server, "iterative_deepening", deepening(max_rounds=1), ignore_eos=True)
    content = whole["choices"][0]["message"]["content"]
    seam = content.index(TRIGGER) + len(TRIGGER)
    stop = content[seam - 4 : seam + 5]
    answer = ask(server, "iterative_deepening", deepening(max_rounds=1), ignore_eos=True, stop=[stop], logprobs=True)
    (choice,) = answer["choices"]
    found = (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"])
    assert found == (content[: seam - 4], "stop", stop)
    said = "".join(entry["token"] for entry in choice["logprobs"]["content"])
    assert stop in said
    assert len(said) <= seam + 5 + 12  # To the end of the token that ends it.
    usage = answer["usage"]
    assert usage["completion_tokens"] < 96 - 20


def test_a_budget_is_for_all_samples(server: Server) -> None:
    """The first that goes on leaves the others enough."""
    params = deepening(samples=4, first_budget=16, max_rounds=1)
    body = {"strategy": {"name": "iterative_deepening", "params": params, "budget": {"max_tokens": 1200}}}
    answer = server.client.chat.completions.create(
        model=server.model, messages=QUESTION, temperature=0.8, seed=1, extra_body=body
    ).model_dump()
    triggers = notes_of(answer, "trigger")
    assert len(triggers) == answer["strategy"]["engine"]["requests"] - 4 > 1


def test_prompted_verification(server: Server) -> None:
    answer = ask(server, "revise", {"mode": "prompted", "samples": 3}, temperature=0.8, seed=5, max_tokens=200)
    verified = notes_of(answer, "verified")
    assert verified  # But not those that were cut.
    assert {note["branch"] for note in verified} <= {0, 1, 2}
    assert all(0 <= note["confidence"] <= 1 for note in verified)
    assert all(note["refine"] == (note["confidence"] < 0.5) for note in verified)
    assert answer["choices"][0]["message"]["content"]
