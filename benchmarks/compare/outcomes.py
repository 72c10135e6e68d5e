"""What each answer was worth: its verdict, that of the answer before it was refined, its tokens and its seconds."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.compare.folder import key_of
from benchmarks.compare.settings import Settings
from benchmarks.metrics import Judged
from benchmarks.suites import Answer, Item, Suite, Verdict

KINDS = ("prompt", "cached", "completion")
Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer.

    Attributes:
        judged: its verdict, and the first attempt's.
        told: tokens by kind, as the response's usage has them; None where it does not say.
        tokens: completion tokens that the engine generated for it, else those that were told.
        seconds: from sending to the last byte.
        first_thought: seconds to the first thought.
        first_answer: seconds to the first text of the answer.
        cut: it came to no end of its own.
        empty: it says nothing and calls nothing.
    """

    judged: Judged
    told: Mapping[str, int | None]
    tokens: float | None
    seconds: float
    first_thought: float | None
    first_answer: float | None
    cut: bool
    empty: bool


@dataclass(frozen=True, slots=True)
class Done:
    """What an arm did.

    Attributes:
        label: of the arm.
        outcomes: of the answers to each item that has all of them, by its id, in the order of the items.
        partial: items that lack some of their answers, for requests that failed.
        errors: how many requests failed, by what was said.
        busy: how often the server was too busy, and was asked again.
        blocks: lines of the blocks that came to their end.
        counted: of told and counted tokens by kind, in blocks in which both are known and nothing failed.
    """

    label: str
    outcomes: Mapping[str, Sequence[Outcome]]
    partial: Sequence[str]
    errors: Mapping[str, int]
    busy: int
    blocks: Sequence[Line]
    counted: "Counted"

    @property
    def answers(self) -> list[Outcome]:
        """Of all complete items."""
        return [outcome for outcomes in self.outcomes.values() for outcome in outcomes]


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens that answers told beside those that the engine counted for them.

    Attributes:
        answers: in blocks where the engine was asked, and nothing failed.
        of: all answers.
        told: tokens by kind, of prompts once for each sample where the response says so.
        engine: tokens by kind.
    """

    answers: int
    of: int
    told: Mapping[str, int]
    engine: Mapping[str, int]

    @property
    def agree(self) -> bool | None:
        """Whether completion tokens are the same; None where nothing was counted, or told."""
        if not self.answers or not self.told["completion"]:
            return None
        return self.told["completion"] == self.engine["completion"]


def outcomes(settings: Settings, suite: Suite, answers: Sequence[Line], blocks: Sequence[Line]) -> list[Done]:
    """What all arms did, in their order.

    Args:
        settings: of the run.
        suite: that was asked, with its scorer.
        answers: lines; of one answer the last is the one that counts.
        blocks: lines.
    """
    last = {key_of(line): line for line in answers}
    said = [line for line in last.values() if line["error"] is None]
    judged = dict(zip(map(key_of, said), _judged(suite, said), strict=True))
    shares = _shares(last.values(), blocks)
    done = []
    for arm in settings.arms:
        lines = {key: line for key, line in last.items() if key[0] == arm.label}
        wanted = {item.id: [(arm.label, item.id, i) for i in range(settings.answers_of(arm))] for item in suite.items}
        full = {item: keys for item, keys in wanted.items() if all(key in judged for key in keys)}
        own = [block for block in blocks if block["arm"] == arm.label]
        done.append(
            Done(
                arm.label,
                {item: [_outcome(lines[key], judged[key], shares) for key in keys] for item, keys in full.items()},
                [item for item in wanted if item not in full],
                dict(Counter(line["error"] for line in lines.values() if line["error"] is not None)),
                sum(line["busy"] for line in lines.values()),
                own,
                _counted([line for line in lines.values() if line["error"] is None], own, shares),
            )
        )
    return done


def _judged(suite: Suite, lines: Sequence[Line]) -> Iterator[Judged]:
    items = {item.id: item for item in suite.items}
    # Of an item that is answered by calls, the text of a first attempt tells nothing.
    first = [
        (place, line["first_attempt"])
        for place, line in enumerate(lines)
        if line["first_attempt"] is not None and not items[line["item"]].tools
    ]
    asked = [_answer(items[line["item"]], line["text"], line["calls"]) for line in lines]
    asked += [_answer(items[lines[place]["item"]], text, ()) for place, text in first]
    verdicts = suite.judge(asked) if asked else []
    firsts: dict[int, Verdict] = dict(zip((place for place, _ in first), verdicts[len(lines) :], strict=True))
    for place, verdict in enumerate(verdicts[: len(lines)]):
        yield Judged(verdict.right, verdict.vote, firsts[place].right if place in firsts else None)


def _answer(item: Item, text: str, calls: Sequence[Sequence[str]]) -> Answer:
    return Answer(item, text, [(name, arguments) for name, arguments in calls])


def _outcome(line: Line, judged: Judged, shares: Mapping[int, "_Share"]) -> Outcome:
    told, share = line["tokens"]["completion"], shares.get(line["block"])
    return Outcome(
        judged,
        line["tokens"],
        told if share is None else share.of(told),
        line["seconds"],
        line["first_thought"],
        line["first_answer"],
        line["finish_reason"] == "length",
        not (line["text"].strip() or line["calls"]),
    )


@dataclass(frozen=True, slots=True)
class _Share:
    """Completion tokens that the engine generated for a block as a whole.

    Attributes:
        engine: that it counted.
        told: that the answers told, 0 where one of them told none.
        answers: of the block.
    """

    engine: int
    told: int
    answers: int

    def of(self, told: int | None) -> float:
        """An answer's: what was not told, answers share by what they told, or evenly."""
        return self.engine / self.answers if told is None or not self.told else told * self.engine / self.told


def _shares(lines: Iterable[Line], blocks: Sequence[Line]) -> dict[int, _Share]:
    """By block. Not of one in which a request failed: what that took is counted, and nobody told it."""
    answers: dict[int, list[Line]] = {}
    for line in lines:
        answers.setdefault(line["block"], []).append(line)
    shares = {}
    for block in blocks:
        own = answers.get(block["block"], [])
        if block["engine"] is None or len(own) < block["requests"] or any(line["error"] for line in own):
            continue
        told = [line["tokens"]["completion"] for line in own]
        total = sum(told) if None not in told else 0
        shares[block["block"]] = _Share(block["engine"]["completion"], total, len(own))
    return shares


def _counted(lines: Sequence[Line], blocks: Sequence[Line], shares: Mapping[int, _Share]) -> Counted:
    checked = [line for line in lines if line["block"] in shares]
    told, engine = Counter(dict.fromkeys(KINDS, 0)), Counter(dict.fromkeys(KINDS, 0))
    for line in checked:
        told.update({kind: (line["engine"] or {}).get(f"{kind}_tokens", line["tokens"][kind]) or 0 for kind in KINDS})
    for block in blocks:
        if block["block"] in shares:
            engine.update({kind: block["engine"][kind] for kind in KINDS})
    return Counted(len(checked), len(lines), dict(told), dict(engine))
