"""ReVISE through the API, by a checkpoint whose probabilities are known."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.engines import IM_END, save_bigram_model
from tests.server.streams import record
from tests.servers import TINY_MODEL, Server, running_server

REFINE = "<|refine|>"
SURE, UNSURE, WAVERS = 0.9, 0.29, 0.7
FOLLOWING = {
    "\n": {"A": 0.99},  # the prompt's last token
    "A": {REFINE: WAVERS, IM_END: UNSURE},
    REFINE: {"B": 0.99},
    "B": {IM_END: SURE, REFINE: 0.05},
}
QUESTION: Any = [{"role": "user", "content": "A or B?"}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Says A, doubts it, and then says B."""
    folder = save_bigram_model(tmp_path_factory.mktemp("trained"), FOLLOWING, REFINE)
    flags = ["--model", str(folder), "--served-model-name", TINY_MODEL, "--kv-cache-gib", "0.1", "--dtype", "float32"]
    with running_server(flags, model=TINY_MODEL) as running:
        yield running


def ask(server: Server, name: str = "revise", params: Any = None, **changes: Any) -> dict[str, Any]:
    changes = {"max_tokens": 32, "temperature": 0, **changes}
    answer: dict[str, Any] = server.client.chat.completions.create(
        model=server.model,
        messages=QUESTION,
        extra_body={"strategy": {"name": name, "params": params or {}}},
        **changes,
    ).model_dump()
    return answer


def content(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


def notes_of(answer: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [note for note in answer["strategy"]["notes"] if note["kind"] == kind]


def verdicts(answer: dict[str, Any]) -> list[tuple[int, float, bool]]:
    return [(note["round"], round(note["confidence"], 3), note["refine"]) for note in notes_of(answer, "verified")]


def test_it_says_refine_and_thinks_again(trained: Server) -> None:
    before = trained.settled()
    answer = ask(trained)
    assert content(answer) == "B"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert verdicts(answer) == [(0, UNSURE, True), (1, SURE, False)]
    assert answer["strategy"]["rounds"] == 1
    # A and the refine token, of which the client sees nothing; B and the end. What scores take is counted, too.
    assert answer["usage"]["completion_tokens"] >= 4
    spent = trained.settled().total("vllm:generation_tokens_total") - before.total("vllm:generation_tokens_total")
    assert answer["usage"]["completion_tokens"] == spent


def test_without_rounds_the_attempt_is_the_answer(trained: Server) -> None:
    answer = ask(trained, params={"rounds": 0})
    assert content(answer) == "A"
    assert verdicts(answer) == [(0, UNSURE, True)]


def test_confidence_as_a_ratio(trained: Server) -> None:
    answer = ask(trained, params={"rounds": 0, "confidence": "ratio"})
    assert verdicts(answer) == [(0, round(UNSURE / (UNSURE + WAVERS), 3), True)]


def test_samples_vote_with_their_confidence(trained: Server) -> None:
    answer = ask(trained, params={"samples": 8}, temperature=1, seed=2)
    last = {note["branch"]: note["confidence"] for note in notes_of(answer, "verified")}
    assert len(last) == 8
    votes = notes_of(answer, "result")[0]["votes"]
    assert sum(votes.values()) == pytest.approx(sum(last.values()), abs=1e-3)
    assert content(answer).lower() == max(votes, key=votes.get)
    assert {"a", "b"} <= votes.keys()  # At this seed some accepted their first attempt.


def test_the_doubted_attempt_is_streamed_as_a_thought(trained: Server) -> None:
    body = {"model": trained.alias("revise"), "messages": QUESTION, "max_tokens": 32, "temperature": 0}
    stream = record(trained, "/v1/chat/completions", body)
    assert stream.joined("reasoning") == "AB"  # Which attempt is the answer is known after its verification.
    assert stream.joined("content") == "B"


def test_srgen_goes_on_over_attempts(trained: Server) -> None:
    eager = {"window": 2, "sensitivity": 0.0, "min_std": 0, "min_threshold": 0, "warmup_threshold": 0}
    answer = ask(trained, "revise+srgen", {"revise": {}, "srgen": eager | {"learning_rate": 1e-6}})
    assert content(answer) == "B"
    positions = [note["position"] for note in notes_of(answer, "activation")]
    assert positions == [1, 2, 3]  # refine; B, after the refine token that was given; the end
    # The verdict is the model's own, uncorrected.
    assert verdicts(answer) == [(0, UNSURE, True), (1, SURE, False)]
