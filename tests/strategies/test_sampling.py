"""The table of sampling parameters, in code and docs."""

from dataclasses import fields
from itertools import product
from typing import Any, get_args

import pytest

from strategies import sampling as module
from strategies.engine import Sampling
from strategies.sampling import ROLES, Role, Rule, derive_seed, rule, sampling_for, table
from tests.strategies.sampling_doc import COMMAND, DOC, page

CLIENT = Sampling(
    max_tokens=50,
    min_tokens=3,
    temperature=0.7,
    top_p=0.9,
    top_k=40,
    min_p=0.05,
    seed=42,
    presence_penalty=0.1,
    frequency_penalty=0.2,
    repetition_penalty=1.1,
    stop=("END",),
    stop_token_ids=(7,),
    include_stop_str_in_output=True,
    ignore_eos=True,
    bad_words=("bad",),
    logit_bias={1: 2.0},
    allowed_token_ids=(1, 2),
    logprobs=5,
    skip_special_tokens=False,
    spaces_between_special_tokens=False,
    thinking_token_budget=9,
    grammar="grammar",
    engine={"a": 1},
    extra={"b": 2},
)
NAMES = [field.name for field in fields(Sampling)]
DERIVED: dict[str, Any] = {"max_tokens": 11, "min_tokens": 2, "logprobs": 1, "temperature": 0.1, "grammar": "pair"}
"""A value for each parameter that a strategy may derive, the seed apart."""


def test_client_of_these_tests_sets_every_parameter() -> None:
    """Else a parameter that is dropped could not be told from one that is inherited."""
    default = Sampling(max_tokens=1)
    assert [name for name in NAMES if getattr(CLIENT, name) == getattr(default, name)] == []


@pytest.mark.parametrize(("name", "role"), list(product(NAMES, ROLES)))
def test_every_parameter_is_treated_as_the_table_says(name: str, role: Role) -> None:
    derived = {key: value for key, value in DERIVED.items() if rule(key, role) == "derived"}
    got = getattr(sampling_for(CLIENT, role, round=2, branch=3, **derived), name)
    expected = {
        "inherited": getattr(CLIENT, name),
        "dropped": getattr(Sampling(max_tokens=1), name),
        "derived": derive_seed(42, 2, 3) if name == "seed" else DERIVED.get(name),
    }
    assert set(expected) == set(get_args(Rule))
    assert got == expected[rule(name, role)]


def test_rules_of_each_role() -> None:
    """Written out, so that no parameter changes its rule, and no new one gets one, unnoticed."""
    shapes_the_answer = {
        "min_tokens",
        "stop",
        "stop_token_ids",
        "include_stop_str_in_output",
        "ignore_eos",
        "logit_bias",
        "allowed_token_ids",
        "grammar",
    }
    style = {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "bad_words",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "thinking_token_budget",
        "engine",
        "extra",
    }
    assert shapes_the_answer | style | {"max_tokens", "seed", "logprobs"} == set(NAMES)
    for role in ROLES:
        if role == "pair":
            continue
        assert {rule(name, role) for name in style} == {"inherited"}
        shape = "dropped" if role == "critique" else "inherited"
        assert {rule(name, role) for name in shapes_the_answer - {"min_tokens"}} == {shape}
        assert rule("min_tokens", role) == ("derived" if role == "attempt" else shape)
        assert rule("max_tokens", role) == ("derived" if role in ("critique", "attempt") else "inherited")
        assert rule("seed", role) == ("inherited" if role == "final" else "derived")
        assert rule("logprobs", role) == ("inherited" if role == "final" else "derived")


def test_a_client_shapes_no_pair() -> None:
    """For others may find what is learnt of it."""
    derived = {"max_tokens", "temperature", "logprobs", "grammar", "seed"}
    assert {name: rule(name, "pair") for name in NAMES} == {
        name: "derived" if name in derived else "dropped" for name in NAMES
    }


def test_the_rules_name_parameters_that_exist() -> None:
    assert {*module._IN_CRITIQUES, *module._IN_ATTEMPTS, *module._IN_PAIRS} <= set(NAMES)


def test_final_is_what_the_client_asked() -> None:
    assert sampling_for(CLIENT, "final", round=2, branch=3) == CLIENT


@pytest.mark.parametrize(
    ("role", "derived"),
    [
        ("final", {"logprobs": 1}),
        ("draft", {"max_tokens": 9}),
        ("sample", {"temperature": 0.5}),
        ("critique", {"stop": ()}),
        ("critique", {"max_tokens": 9, "top_p": 0.5}),
        ("revision", {"unknown": 1}),
    ],
)
def test_deriving_what_is_not_derived_is_an_error(role: Role, derived: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"not derived in a {role} call"):
        sampling_for(CLIENT, role, **derived)


@pytest.mark.parametrize(
    ("seed", "round", "branch", "expected"),
    [
        (0, 0, 1, 8137497327577655571),
        (0, 1, 0, 2994300784048610342),
        (42, 0, 1, 7597860616009940888),
        (42, 1, 0, 1923461445351437774),
        (42, 3, 2, 4486993326552104993),
        (-1, 1, 1, 8214486106762018581),
    ],
)
def test_seeds_never_change(seed: int, round: int, branch: int, expected: int) -> None:
    """A client's seed gives the same answer next year."""
    assert derive_seed(seed, round, branch) == expected


def test_seeds_differ_and_fit_the_engine() -> None:
    seeds = [derive_seed(seed, *at) for seed in (0, 1, 42) for at in product(range(20), range(20))]
    assert None not in seeds
    assert len(set(seeds)) == len(seeds) == 1200
    assert all(seed is not None and 0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("role", ROLES)
def test_first_call_keeps_the_seed(role: Role) -> None:
    assert derive_seed(7, 0, 0) == 7
    assert sampling_for(CLIENT, role).seed == 42


def test_no_seed_stays_none() -> None:
    assert derive_seed(None, 0, 0) is None
    assert derive_seed(None, 3, 1) is None


def test_table_has_a_row_for_each_parameter() -> None:
    header, line, *rows = table().splitlines()
    assert header == "| parameter | draft | critique | revision | sample | attempt | pair | final |"
    assert line == "|---|---|---|---|---|---|---|---|"
    assert [row.split("|")[1].strip() for row in rows] == [f"`{name}`" for name in NAMES]
    assert "| `stop` | inherited | dropped | inherited | inherited | inherited | dropped | inherited |" in rows
    assert "| `seed` | derived | derived | derived | derived | derived | derived | inherited |" in rows


def test_docs_hold_the_table() -> None:
    text = DOC.read_text(encoding="utf-8")
    assert text == page(), f"docs/sampling.md is not what the code does; write it with: {COMMAND}"
    assert text.endswith(f"\n\n{table()}\n")
    assert COMMAND in text
