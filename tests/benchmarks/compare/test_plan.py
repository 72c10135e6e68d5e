from collections.abc import Callable

from benchmarks.compare.plan import body, plan, seed_of
from benchmarks.compare.settings import Settings
from benchmarks.suites import suite

Make = Callable[..., Settings]


def test_arms_take_turns_in_an_order_of_the_seed(make: Make) -> None:
    arms = [{"label": label} for label in "abcd"]
    orders = []
    for seed in (1, 1, 2):
        settings = make(seed=seed, arms=arms, answers=3)
        items = suite(settings.suite, None, 0).items
        blocks = plan(settings, items)
        orders.append([(one.arm.label, [(item.id, i) for item, i in one.asked]) for one in blocks])
        for start in range(0, len(items), settings.block):
            turn = orders[-1][2 * start : 2 * start + 4]
            assert sorted(label for label, _ in turn) == list("abcd"), "each arm once, before the next items"
            wanted = {(item.id, i) for item in items[start : start + 2] for i in range(3)}
            assert all(set(asked) == wanted for _, asked in turn)
    assert orders[0] == orders[1] != orders[2]
    labels = [label for label, _ in orders[0]]
    assert labels[:4] != labels[4:8] or labels[:4] != labels[8:], "not always in one order"
    assert any(asked != sorted(asked) for _, asked in orders[0])


def test_what_is_there_is_not_asked(make: Make) -> None:
    settings = make(arms=[{"label": "a", "answers": 2}])
    items = suite(settings.suite, None, 0).items
    first = plan(settings, items)[0]
    left = first.without({("a", items[0].id, 0), ("a", items[0].id, 1), ("a", items[1].id, 0)})
    assert [(item.id, i) for item, i in left.asked] == [(items[1].id, 1)]


def test_seeds_are_of_item_and_answer(make: Make) -> None:
    settings = make()
    items = suite(settings.suite, None, 0).items
    seeds = {seed_of(seed, item, i) for seed in (0, 1) for item in items for i in range(4)}
    assert len(seeds) == 2 * 6 * 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    bodies = [body(settings, arm, items[0], 1) for arm in settings.arms]
    assert bodies[0]["seed"] == bodies[1]["seed"] == seed_of(0, items[0], 1)


def test_requests(make: Make) -> None:
    settings = make(arms=[{"label": "a", "strategy": "s", "model": "n", "sampling": {"temperature": 0}}], top_p=0.5)
    item = suite(settings.suite, 1, 0).items[0]
    found = body(settings, settings.arms[0], item, 0)
    assert (found["model"], found["temperature"], found["top_p"], found["max_tokens"]) == ("n", 0, 0.5, 512)
    assert found["strategy"] == {"name": "s", "params": {}}
    assert found["stream_options"] == {"include_usage": True}
    assert "tools" not in found
