"""What arms come to, in plain words: no number without what it says and how sure it is."""

from collections.abc import Iterator

from benchmarks.compare.summary import Result, Summary
from benchmarks.metrics import Interval


def percent(share: float | None) -> str:
    """A share of 0 to 1."""
    return "-" if share is None else f"{100 * share:.0f}%"


def between(interval: Interval | None) -> str:
    """A share with its interval."""
    return (
        "-" if interval is None else f"{percent(interval.value)} ({percent(interval.low)} to {percent(interval.high)})"
    )


def points(interval: Interval) -> str:
    """A difference of shares with its interval, in percentage points."""
    value, low, high = (f"{100 * one:+.0f}" for one in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def number(value: float | None, digits: int = 0) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def many(count: int, what: str) -> str:
    """`1 item`, `2 items`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def certainty(interval: Interval) -> str:
    """Whether a difference may be chance."""
    return "which may be chance" if interval.low <= 0 <= interval.high else "more than chance explains"


def about(arm: Summary, result: Result) -> list[str]:
    """Sentences about one arm."""
    if arm.accuracy is None:
        return [f"No item has all of its answers: {many(sum(arm.errors.values()), 'request')} failed."]
    return [*_right(arm), *_cost(arm, result), *_equal(arm), *_refined(arm), *_trouble(arm)]


def _right(arm: Summary) -> Iterator[str]:
    several = f", {arm.k} to each" if arm.k > 1 else ""
    yield f"Right on {between(arm.accuracy)} of its answers to {many(arm.items, 'item')}{several}."
    if arm.k > 1:
        voted, found = arm.metrics[f"cons@{arm.k}"], arm.metrics[f"pass@{arm.k}"]
        yield f"The answer that most of the {arm.k} agree on is right on {percent(voted.value)} of the items, and at"
        yield f"least one of them is on {percent(found.value)}."


def _cost(arm: Summary, result: Result) -> Iterator[str]:
    if arm.point is None:
        yield "How many tokens it takes is not known: the endpoint does not tell, and nothing counted them."
        return
    plain = next((one.point for one in result.arms if one.label == result.plain), None)
    times = ""
    if plain is not None and plain.tokens and arm.label != result.plain:
        times = f", {arm.point.tokens / plain.tokens:.1f} times those of {result.plain}"
    yield f"An answer takes {number(arm.point.tokens)} generated tokens{times},"
    yield f"and {number(arm.latency.p50, 1)} seconds."


def _equal(arm: Summary) -> Iterator[str]:
    beside = arm.beside
    if beside is None:
        return
    where = {
        "within": "Beside self-consistency at as many tokens",
        "less": "It takes fewer tokens than one plain answer; beside one",
        "more": "It takes more tokens than all plain answers together; beside a vote among all of them",
    }[beside.reach]
    difference = beside.difference
    if difference.value == 0:
        yield f"{where}, it is right as often ({points(difference)} points)."
        return
    word = "more" if difference.value > 0 else "less"
    yield f"{where}, it is right {word} often: {points(difference)} points, {certainty(difference)}."


def _refined(arm: Summary) -> Iterator[str]:
    refined = arm.refined
    if refined is None:
        return
    yield f"Before it refined, {percent(refined.before)} of its answers were right; in the end"
    yield f"{percent(refined.after)}."
    yield f"Refining made {round(refined.gained * refined.count)} of {refined.count} right that were wrong, and"
    yield f"{round(refined.lost * refined.count)} wrong that were right."


def _trouble(arm: Summary) -> Iterator[str]:
    if arm.cut:
        yield f"Cut at the limit of tokens: {many(arm.cut, 'answer')}."
    if arm.empty:
        yield f"Empty: {many(arm.empty, 'answer')}."
    if arm.errors:
        failed, left = many(sum(arm.errors.values()), "request"), many(arm.partial, "item")
        yield f"{failed} failed, for which {left} had to be left out: what is said here may be of the easier ones."
    if arm.counted.agree is False:
        told, engine = arm.counted.told["completion"], arm.counted.engine["completion"]
        yield f"The endpoint told {number(told)} tokens where the engine counted {number(engine)}."
