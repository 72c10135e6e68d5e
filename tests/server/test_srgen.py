"""SRGen through the API, alone and inside other strategies."""

import json
from typing import Any

import pytest

from tests.server.routes.test_chat import WEATHER as TOOL
from tests.server.streams import record
from tests.servers import Server, Spent

CHAT = "/v1/chat/completions"
EAGER: dict[str, Any] = {"window": 4, "sensitivity": 0.2, "min_std": 0.1, "min_threshold": 0.5, "warmup_threshold": 0.5}
"""Fires at every few tokens."""
FIELDS = {
    "kind",
    "text",
    "branch",
    "role",
    "position",
    "entropy",
    "threshold",
    "entropy_after",
    "token_before",
    "token_after",
    "text_before",
    "text_after",
    "delta_norm",
}


def body(server: Server, name: str, params: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "model": server.model,
        "messages": [{"role": "user", "content": "Write a line about the sea."}],
        "max_tokens": 24,
        "temperature": 0,
        "ignore_eos": True,
        "strategy": {"name": name, "params": params},
        **changes,
    }


def ask(server: Server, request: dict[str, Any], path: str = CHAT) -> dict[str, Any]:
    with server.http as http:
        answer: dict[str, Any] = http.post(path, json=request).raise_for_status().json()
    return answer


def activations(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [note for note in report["notes"] if note["kind"] == "activation"]


def test_it_is_listed(server: Server) -> None:
    with server.http as http:
        listed = http.get("/v1/strategies").json()["data"]
    (srgen,) = (entry for entry in listed if entry["name"] == "srgen")
    assert srgen["available"]
    assert srgen["parameters"]["properties"]["window"]["default"] == 25
    assert f"{server.model}@srgen" in [card.id for card in server.client.models.list()]


def test_each_correction_is_a_note(server: Server) -> None:
    before = server.settled()
    answer = ask(server, body(server, "srgen", EAGER))
    spent = Spent.between(before, server.settled())
    notes = activations(answer["strategy"])
    assert notes
    assert answer["strategy"]["name"] == "direct+srgen"
    assert answer["usage"]["completion_tokens"] == spent.completion == 24
    assert answer["usage"]["prompt_tokens"] == spent.prompt
    for note in notes:
        assert note.keys() == FIELDS
        assert note["entropy"] > note["threshold"]
        assert note["delta_norm"] > 0
        assert 0 < note["position"] < 24
        assert (note["branch"], note["role"]) == (0, "final")
        assert note["text_after"] in answer["choices"][0]["message"]["content"]
    assert [note["position"] for note in notes] == sorted({note["position"] for note in notes})


def test_it_changes_the_answer_and_only_from_the_first_correction_on(server: Server) -> None:
    request = body(server, "srgen", EAGER | {"learning_rate": 0.1, "steps": 5}, logprobs=True)
    corrected = ask(server, request)
    plain = ask(server, {key: value for key, value in request.items() if key != "strategy"})
    texts = [[entry["token"] for entry in answer["choices"][0]["logprobs"]["content"]] for answer in (corrected, plain)]
    changed = [
        note["position"] for note in activations(corrected["strategy"]) if note["token_before"] != note["token_after"]
    ]
    assert changed
    assert texts[0][: changed[0]] == texts[1][: changed[0]]
    assert texts[0][changed[0]] != texts[1][changed[0]]


def test_by_alias_it_has_the_papers_defaults(server: Server) -> None:
    answer = server.client.chat.completions.create(
        model=server.alias("srgen"), messages=[{"role": "user", "content": "Hi"}], max_tokens=8
    )
    report: Any = answer.model_extra
    assert report["strategy"]["params"]["srgen"]["window"] == 25
    assert answer.choices[0].message.content


def test_notes_are_streamed_as_they_come(server: Server) -> None:
    stream = record(server, CHAT, body(server, "srgen", EAGER))
    notes, answers = stream.of_event("note"), stream.of_event("answer")
    assert notes
    assert notes[0].at < answers[-1].at
    assert [line.data["strategy"]["note"] for line in notes] == stream.report["notes"]
    assert stream.report["notes"] == activations(ask(server, body(server, "srgen", EAGER))["strategy"])
    # A correction is told before the token that it made.
    events = [line.data["strategy"]["event"] for line in stream.lines if "strategy" in line.data]
    first = events.index("note")
    assert events[:first].count("answer") <= activations(stream.report)[0]["position"] + 1


def test_self_consistency_with_it(server: Server) -> None:
    params = {"self_consistency": {"samples": 3}, "srgen": EAGER}
    answer = ask(server, body(server, "self_consistency+srgen", params, temperature=0.7, seed=1))
    notes = activations(answer["strategy"])
    assert {note["branch"] for note in notes} == {0, 1, 2}
    assert {note["role"] for note in notes} == {"sample"}
    assert answer["strategy"]["engine"]["requests"] == 3


def test_self_refine_with_it(server: Server) -> None:
    params = {"self_refine": {"critique_tokens": 24, "stop": "never"}, "srgen": EAGER}
    answer = ask(server, body(server, "self_refine+srgen", params))
    notes = activations(answer["strategy"])
    assert {(note["role"], note["branch"]) for note in notes} == {("draft", 0), ("critique", 0), ("revision", 1)}


def test_thoughts_can_be_hidden(server: Server) -> None:
    answer = ask(server, body(server, "srgen", EAGER, include_reasoning=False))
    notes = activations(answer["strategy"])
    assert notes
    assert not any(
        isinstance(value, str) and value for note in notes for value in (note["text"], note.get("text_after"))
    )


def test_responses(server: Server) -> None:
    request = body(server, "srgen", EAGER, input="Write a line about the sea.", max_output_tokens=24)
    answer = ask(server, {k: v for k, v in request.items() if k not in ("messages", "max_tokens")}, "/v1/responses")
    assert activations(answer["strategy"])


def test_a_tool_call_and_a_json_schema(server: Server) -> None:
    """A grammar masks what is chosen; the entropy is the model's own."""
    answer = ask(server, body(server, "srgen", EAGER, tools=[TOOL], tool_choice="required", max_tokens=60))
    (call,) = answer["choices"][0]["message"]["tool_calls"][:1]
    assert call["function"]["name"] == TOOL["function"]["name"]
    assert json.loads(call["function"]["arguments"]).keys() == {"city"}
    assert activations(answer["strategy"])


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"windw": 3}, "strategy.params.windw"),
        ({"window": 1}, "strategy.params.window"),
        ({"steps": 3.5}, "strategy.params.steps"),
        ({"activations": 3}, "strategy.params.activations"),
        ({"prompt_tokens": 3}, "strategy.params.prompt_tokens"),
    ],
)
def test_wrong_parameters(server: Server, params: dict[str, Any], param: str) -> None:
    with server.http as http:
        response = http.post(CHAT, json=body(server, "srgen", params))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_plain_request_may_use_vllms_own_arguments(server: Server) -> None:
    request = body(server, "srgen", EAGER)
    corrected = ask(server, request)
    del request["strategy"]
    plain = ask(server, request | {"vllm_xargs": {"srgen": json.dumps(EAGER)}})
    assert plain["choices"][0]["message"]["content"] == corrected["choices"][0]["message"]["content"]
    with server.http as http:
        response = http.post(CHAT, json=request | {"vllm_xargs": {"srgen": '{"windw": 3}'}})
    assert response.status_code == 400
    assert "srgen.windw" in response.json()["error"]["message"]


def test_the_servers_own_arguments_are_not_the_clients(server: Server) -> None:
    request = body(server, "srgen", EAGER)
    del request["strategy"]
    with server.http as http:
        response = http.post(CHAT, json=request | {"vllm_xargs": {"redraft_report": "x"}})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "vllm_xargs"


def test_beams_are_refused(server: Server) -> None:
    """VLLM would search without a correction, and say nothing."""
    request = body(server, "srgen", {}, vllm_xargs={"srgen": "{}"}, use_beam_search=True, n=2)
    del request["strategy"]
    with server.http as http:
        response = http.post(CHAT, json=request)
    assert response.status_code == 400
    assert "beam search" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("strategy", "xargs", "param"),
    [
        ({"name": "srgen"}, {"srgen": "{}"}, "vllm_xargs"),
        (None, {"redraft_srgen_text": '{"activations": 5}'}, "vllm_xargs"),
        (None, {"srgen": '{"activations": 5}'}, None),
        ({"name": "srgen", "params": {"warmup_threshold": float("inf")}}, None, "strategy.params.warmup_threshold"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_refused(server: Server, strategy: Any, xargs: Any, param: str | None, stream: bool) -> None:
    request = body(server, "srgen", {}, strategy=strategy, vllm_xargs=xargs, stream=stream)
    content = json.dumps({key: value for key, value in request.items() if value is not None})
    with server.http as http:
        response = http.post(
            CHAT, content=content.replace("Infinity", "1e999"), headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert "srgen" in error["message"] or "warmup_threshold" in error["message"]
    if param is not None:
        assert error["param"] == param
