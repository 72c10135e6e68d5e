"""The stream of a strategy's chat completion, chunk by chunk."""

from typing import Any

import pytest

from tests.server.streams import Recording, record
from tests.servers import Server

CHAT = "/v1/chat/completions"

STRATEGIES: dict[str, dict[str, Any]] = {
    "direct": {"name": "direct"},
    "self_refine": {"name": "self_refine", "params": {"critique_tokens": 16, "stop": "never"}},
    "self_refine, last": {"name": "self_refine", "params": {"critique_tokens": 16, "stop": "never", "keep": "last"}},
    "self_consistency": {"name": "self_consistency", "params": {"samples": 3}},
    "best_of_n": {"name": "best_of_n", "params": {"samples": 3}},
}


def body(server: Server, strategy: dict[str, Any] | None, **changes: object) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": server.model,
        "messages": [{"role": "user", "content": "Name three fruits."}],
        "max_tokens": 16,
        "temperature": 0.7,
        "seed": 7,
        "ignore_eos": True,
    }
    return request | ({} if strategy is None else {"strategy": strategy}) | changes


@pytest.fixture(scope="module")
def recordings(server: Server) -> dict[str, Recording]:
    """One stream of each strategy, with usage."""
    return {
        name: record(server, CHAT, body(server, strategy, stream_options={"include_usage": True}))
        for name, strategy in STRATEGIES.items()
    }


@pytest.fixture(params=STRATEGIES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def stream(recordings: dict[str, Recording], name: str) -> Recording:
    return recordings[name]


def test_the_role_comes_once_and_first(stream: Recording) -> None:
    assert stream.deltas[0]["role"] == "assistant"
    assert ["role" in delta for delta in stream.deltas].count(True) == 1


def test_every_chunk_is_of_one_completion(server: Server, stream: Recording) -> None:
    heads = {(c["id"], c["object"], c["created"], c["model"]) for c in stream.chunks}
    assert len(heads) == 1
    identifier, kind, _, model = heads.pop()
    assert identifier.startswith("chatcmpl-")
    assert kind == "chat.completion.chunk"
    assert model == server.model


def test_the_alias_is_the_model(server: Server) -> None:
    alias = server.alias("direct")
    stream = record(server, CHAT, body(server, None, model=alias))
    assert {chunk["model"] for chunk in stream.chunks} == {alias}


def test_beside_each_delta_stands_its_event(stream: Recording) -> None:
    for chunk in stream.chunks:
        for choice in chunk["choices"]:
            about, delta = chunk["strategy"], choice["delta"]
            assert {"event", "branch", "role", "note"} <= about.keys()
            assert about["event"] == (
                "answer" if delta.get("content") else "thought" if "reasoning" in delta else about["event"]
            )
            assert (about["note"] is not None) == (about["event"] == "note")


def test_the_end_is_finish_reason_then_usage_then_done(stream: Recording) -> None:
    *before, usage = stream.chunks
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] > 0
    assert not any(chunk.get("usage") for chunk in before)
    finishes = [choice["finish_reason"] for chunk in before for choice in chunk["choices"]]
    assert finishes[-1] == "length"
    assert set(finishes[:-1]) == {None}
    assert stream.done


def test_the_report_is_on_the_finish_chunk(stream: Recording, name: str) -> None:
    assert stream.report["name"] == STRATEGIES[name]["name"]
    assert stream.report["stop_reason"] == "finished"
    assert stream.report["engine"]["completion_tokens"] == stream.chunks[-1]["usage"]["completion_tokens"]
    notes = [line.data["strategy"]["note"] for line in stream.of_event("note")]
    assert stream.report["notes"] == notes
    assert sum("stop_reason" in (chunk.get("strategy") or {}) for chunk in stream.chunks) == 1


def test_the_stream_says_what_the_whole_response_says(server: Server, stream: Recording, name: str) -> None:
    """The prompt is cached by now for both."""
    again = record(server, CHAT, body(server, STRATEGIES[name]))
    with server.http as http:
        whole = http.post(CHAT, json=body(server, STRATEGIES[name])).raise_for_status().json()
    assert again.joined("content") == whole["choices"][0]["message"]["content"]
    assert again.joined("content") == stream.joined("content")
    assert again.report.keys() - {"event", "branch", "role", "note"} == whole["strategy"].keys()
    # Scores in notes differ by rounding with the branches that share a step.
    vague = {"seconds", "notes"}
    assert {key: value for key, value in whole["strategy"].items() if key not in vague} == {
        key: again.report[key] for key in whole["strategy"] if key not in vague
    }
    assert [note["kind"] for note in whole["strategy"]["notes"]] == [note["kind"] for note in again.report["notes"]]


def test_thoughts_of_the_whole_response_are_those_of_the_stream(server: Server, stream: Recording, name: str) -> None:
    texts: dict[tuple[str, int], str] = {}
    for line in stream.of_event("thought"):
        about = line.data["strategy"]
        at = (about["role"], about["branch"])
        texts[at] = texts.get(at, "") + line.data["choices"][0]["delta"]["reasoning"]
    with server.http as http:
        whole = http.post(CHAT, json=body(server, STRATEGIES[name])).raise_for_status().json()
    reasoning = whole["choices"][0]["message"]["reasoning"]
    assert (reasoning is not None) == bool(texts)
    for (role, branch), text in texts.items():
        assert f"[{role} {branch}]\n{text}" in reasoning


@pytest.mark.parametrize("name", ["self_consistency", "best_of_n"], indirect=True)
def test_branches_are_shown_as_they_grow(stream: Recording) -> None:
    thoughts = [(line.at, line.data["strategy"]["branch"]) for line in stream.of_event("thought")]
    branches = [branch for _, branch in thoughts]
    assert set(branches) == {0, 1, 2}
    first_end = min(max(i for i, b in enumerate(branches) if b == branch) for branch in set(branches))
    assert {0, 1, 2} <= set(branches[:first_end])
    assert thoughts[0][0] < thoughts[-1][0]


@pytest.mark.parametrize("name", ["self_refine"], indirect=True)
def test_rounds_are_shown_as_they_grow(stream: Recording) -> None:
    roles = [line.data["strategy"]["role"] for line in stream.of_event("thought")]
    assert list(dict.fromkeys(roles)) == ["draft", "critique", "revision"]
    drafts = [line.at for line in stream.of_event("thought") if line.data["strategy"]["role"] == "draft"]
    assert len(drafts) >= 8
    assert drafts[0] < drafts[-1] < stream.lines[-1].at


@pytest.mark.parametrize("name", ["direct", "self_refine, last"], indirect=True)
def test_an_answer_without_a_choice_streams_as_it_grows(stream: Recording) -> None:
    answers = [line for line in stream.of_event("answer") if line.data["choices"][0]["delta"].get("content")]
    assert len(answers) >= 8
    assert answers[0].at < answers[-1].at


@pytest.mark.parametrize("name", ["best_of_n", "self_refine", "self_consistency"], indirect=True)
def test_thoughts_can_be_hidden(server: Server, recordings: dict[str, Recording], name: str) -> None:
    hidden = record(server, CHAT, body(server, STRATEGIES[name], include_reasoning=False))
    assert hidden.joined("reasoning") == ""
    assert not hidden.of_event("thought")
    notes = [line.data["strategy"]["note"] for line in hidden.of_event("note")]
    assert notes
    assert not any(note["text"] for note in notes + hidden.report["notes"])
    words = [value for note in notes for key, value in note.items() if key not in ("kind", "role", "reason")]
    assert not any(isinstance(value, str) and value for value in words)
    assert hidden.deltas[0]["role"] == "assistant"
    assert hidden.joined("content") == recordings[name].joined("content")
    with server.http as http:
        request = body(server, STRATEGIES[name], include_reasoning=False)
        whole = http.post(CHAT, json=request).raise_for_status().json()
    assert whole["choices"][0]["message"].get("reasoning") is None


def test_without_stream_options_there_is_no_usage(server: Server) -> None:
    stream = record(server, CHAT, body(server, STRATEGIES["direct"]))
    assert not any(chunk.get("usage") for chunk in stream.chunks)
    assert stream.done


def test_continuous_usage_never_shrinks(server: Server) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = record(server, CHAT, body(server, STRATEGIES["self_refine, last"], stream_options=options))
    totals = [chunk["usage"]["completion_tokens"] for chunk in stream.chunks if chunk.get("usage")]
    assert totals == sorted(totals)


@pytest.mark.parametrize("budget", [{"max_tokens": 1}, {"max_tokens": 9}, {"max_seconds": 0.001}, {"max_seconds": 0.4}])
@pytest.mark.parametrize("name", ["direct", "best_of_n", "self_refine"])
def test_a_stream_that_a_limit_cuts_still_ends_well(server: Server, name: str, budget: dict[str, float]) -> None:
    strategy = {"name": name, "budget": budget}
    stream = record(server, CHAT, body(server, strategy, max_tokens=200, stream_options={"include_usage": True}))
    finishes = [choice["finish_reason"] for chunk in stream.chunks for choice in chunk["choices"]]
    assert finishes[-1] == "length"
    assert finishes.count(None) == len(finishes) - 1
    assert stream.report["stop_reason"] == ("budget" if "max_tokens" in budget else "deadline")
    assert stream.chunks[-1]["usage"]["completion_tokens"] <= budget.get("max_tokens", 1000)
    assert stream.done
    with server.http as http:
        whole = http.post(CHAT, json=body(server, strategy, max_tokens=200))
    assert whole.status_code == 200
    assert whole.json()["choices"][0]["finish_reason"] == "length"
