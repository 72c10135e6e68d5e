"""SRGen's parameters on their way into the engine."""

from typing import Any

import pytest

from strategies.srgen.request import SRGenParams, SRGenRequest, SRGenText


def test_defaults_are_those_of_the_published_script() -> None:
    assert SRGenParams().model_dump() == {
        "window": 25,
        "sensitivity": 4.0,
        "warmup_threshold": 3.0,
        "min_std": 0.5,
        "min_threshold": 1.8,
        "entropy_weight": 0.05,
        "steps": 3,
        "learning_rate": 0.01,
        "max_activations": 19,
        "scope": "all",
    }


@pytest.mark.parametrize(
    "request_",
    [
        SRGenRequest(SRGenParams()),
        SRGenRequest(SRGenParams(window=3, scope="generated")),
        SRGenRequest(SRGenParams(), SRGenText(prompt_tokens=5, activations=2)),
    ],
)
def test_what_is_written_is_read(request_: SRGenRequest) -> None:
    assert SRGenRequest.read(request_.arguments()) == request_


@pytest.mark.parametrize("arguments", [None, {}, {"other": 1}])
def test_nothing_asked(arguments: Any) -> None:
    assert SRGenRequest.read(arguments) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "a string of JSON"),
        ({"window": 3}, "a string of JSON"),
        ("", "Invalid JSON"),
        ("[]", "srgen"),
        ('{"windw": 3}', "srgen.windw"),
        ('{"window": 1}', "srgen.window"),
        ('{"window": 257}', "srgen.window"),
        ('{"window": "3"}', "srgen.window"),
        ('{"learning_rate": 0}', "srgen.learning_rate"),
        ('{"learning_rate": NaN}', "srgen"),
        ('{"min_std": -1}', "srgen.min_std"),
        ('{"steps": 1000000}', "srgen.steps"),
        ('{"scope": "some"}', "srgen.scope"),
        ('{"warmup_threshold": 1e999}', "srgen.warmup_threshold"),
        ('{"min_std": 1e39}', "srgen.min_std"),
        ('{"min_threshold": Infinity}', "srgen.min_threshold"),
        ('{"activations": 1}', "srgen.activations"),
        ('{"prompt_tokens": 1}', "srgen.prompt_tokens"),
    ],
)
def test_what_is_wrong_is_named(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        SRGenRequest.read({"srgen": value})


@pytest.mark.parametrize("value", ['{"activations": -1}', '{"prompt_tokens": 100000000000000000000}', '{"window": 3}'])
def test_what_the_server_says_of_a_text_is_checked_too(value: str) -> None:
    with pytest.raises(ValueError, match="redraft_srgen_text"):
        SRGenRequest.read({"srgen": "{}", "redraft_srgen_text": value})
