import pytest

from benchmarks.compare.arms import Arm, Budget
from benchmarks.compare.errors import CompareError


def test_arms_as_the_command_line_has_them() -> None:
    assert Arm.parsed("plain=") == Arm(label="plain")
    assert Arm.parsed("sc=self_consistency") == Arm(label="sc", strategy="self_consistency")
    whole = 'sc 5=self_consistency+srgen:{"params": {"samples": 5}, "budget": {"max_tokens": 9}, "answers": 2}'
    wanted = Arm(
        label="sc 5",
        strategy="self_consistency+srgen",
        params={"samples": 5},
        budget=Budget(max_tokens=9),
        answers=2,
    )
    assert Arm.parsed(whole) == wanted
    assert Arm.parsed('hot=:{"sampling": {"temperature": 1.5}}').fields() == {"temperature": 1.5}


def test_what_requests_of_an_arm_have_of_their_own() -> None:
    arm = Arm(label="a", strategy="s", params={"x": 1}, budget=Budget(max_tokens=5), sampling={"top_k": 3})
    assert arm.fields() == {"top_k": 3, "strategy": {"name": "s", "params": {"x": 1}, "budget": {"max_tokens": 5}}}
    assert Arm(label="a").fields() == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plain", "LABEL=STRATEGY"),
        ("a=s:{", "no JSON"),
        ("a=s:[1]", "an object"),
        ('a=s:{"strategy": "t"}', "without label"),
        ('a=s:{"param": {}}', r"arm a: param: Extra"),
        ('a=s:{"answers": "2"}', "answers"),
        ('a=s:{"budget": {"max_tokens": 0}}', "budget.max_tokens"),
        ('a=:{"params": {"samples": 5}}', "belong to a strategy"),
        ('a=:{"key_variable": "KEY"}', "belongs to a base_url"),
        ('a=:{"sampling": {"seed": 1, "model": "m"}}', "model, seed are set by the comparison"),
        ("_a=s", "label"),
        ("$a$=s", "label"),
        ("=s", "label"),
    ],
)
def test_what_is_no_arm(text: str, told: str) -> None:
    with pytest.raises(CompareError, match=told):
        Arm.parsed(text)
