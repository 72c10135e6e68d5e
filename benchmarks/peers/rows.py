"""From the entries of a journal to the numbers of each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.journal import Journal
from benchmarks.metrics import Interval, Judged, cons_at
from benchmarks.peers.accuracy import by_hand
from benchmarks.peers.arms import DIRECT, Arm
from benchmarks.stats import Ratio

Entry = Mapping[str, Any]


class Unmeasured(LookupError):
    """A number that there is not; the message says why."""


class Rows:
    """The numbers of one journal, by arm. All methods raise Unmeasured where an arm failed or does not run."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._seed: int = journal.settings["seed"]

    def entries(self, kind: str, arm: Arm) -> list[Entry]:
        """What was measured of an arm."""
        found = self._journal.under(kind, arm.name)
        if failed := [entry["error"] for entry in found if "error" in entry]:
            raise Unmeasured(f"{len(failed)} of {len(found)} failed: {failed[0]}")
        if not found:
            raise Unmeasured(self._journal.facts["failed"].get(arm.gateway, "not measured"))
        return found

    def over_one_call(self, kind: str, arm: Arm) -> Ratio:
        """Seconds over those of one direct call, round by round."""
        ours = [entry["seconds"] for entry in self.entries(kind, arm)]
        theirs = [entry["seconds"] for entry in self.entries("plain", DIRECT)]
        pairs = min(len(ours), len(theirs))
        return Ratio.of(ours[:pairs], theirs[:pairs], self._seed)

    def reported_over_true(self, kind: str, arm: Arm) -> dict[str, float]:
        """Tokens that the gateway reports over those that its engine counted, prompt and completion."""
        found = self.entries(kind, arm)
        return {what: _share(_total(found, "reported", what), _total(found, "true", what)) for what in TOKENS}

    def parameters(self, arm: Arm) -> dict[str, bool]:
        """Whether each sampling parameter reached the engine."""
        (entry,) = self.entries("parameters", arm)
        found: dict[str, bool] = entry["reached"]
        return found

    def after_leaving(self, arm: Arm, stream: bool) -> float:
        """Tokens made after the client had left, over those of the whole request: of all rounds together."""
        found = self.entries("leave stream" if stream else "leave", arm)
        return _share(sum(entry["after"] for entry in found), sum(entry["whole"] for entry in found))

    def first_over_total(self, arm: Arm, what: str = "first_byte") -> float:
        """The median share of a stream's seconds until its first byte, or its `first_text`."""
        found = self.entries("stream", arm)
        firsts = [entry[what] for entry in found if entry[what] is not None]
        if not firsts:
            raise Unmeasured("no text")
        return float(np.median([entry[what] / entry["seconds"] for entry in found if entry[what] is not None]))

    def answers(self, arm: Arm) -> "Answered":
        """What an arm made of the task."""
        return Answered.of(self.entries("answers", arm))

    def at_equal_tokens(self, arm: Arm) -> Interval:
        """The accuracy of an arm over that of a vote by hand at as many tokens, with its interval over items."""
        samples = self._journal.settings["samples"]
        return beside_vote(self.answers(arm), self.answers(by_hand(samples)))


TOKENS = ("prompt", "completion")


@dataclass(frozen=True)
class Answered:
    """Answers to N items.

    Attributes:
        judged: those to each item; none where a request failed.
        prompt: tokens an item that the engine read.
        completion: tokens an item that the engine made.
        seconds: of the median request.
        errors: what failed.
    """

    judged: Sequence[Sequence[Judged]]
    prompt: float
    completion: float
    seconds: float
    errors: Sequence[str]

    @classmethod
    def of(cls, blocks: Sequence[Entry]) -> "Answered":
        """From the blocks of a journal."""
        judged = [[Judged(right, vote) for right, vote in item] for block in blocks for item in block["judged"]]
        seconds = [one for block in blocks for one in block["seconds"]]
        errors = [error for block in blocks for error in block["errors"]]
        tokens = {what: _total(blocks, "true", what) / len(judged) for what in TOKENS}
        return cls(judged, tokens["prompt"], tokens["completion"], float(np.median(seconds)), errors)

    def right(self) -> list[float]:
        """Of each item, whether its first answer is right; one that failed is not."""
        return [float(bool(one) and one[0].right) for one in self.judged]

    def voted(self, k: int) -> list[float]:
        """Of each item, whether a vote of its first k answers is right."""
        return [cons_at(one, k) if len(one) >= k else 0.0 for one in self.judged]

    @property
    def samples(self) -> int:
        """Answers to an item."""
        return max(map(len, self.judged))


def beside_vote(arm: Answered, votes: Answered) -> Interval:
    """The mean difference to a vote of as many samples as make the arm's tokens, on the same items.

    Between two numbers of samples, some items are put to the one and the rest to the other: the mean of both in that
    share. Less than one sample is one, and more than all are all.
    """
    wanted = arm.completion / (votes.completion / votes.samples)
    wanted = min(max(wanted, 1.0), float(votes.samples))
    low = int(wanted)
    share = wanted - low
    below, above = np.array(votes.voted(low)), np.array(votes.voted(min(low + 1, votes.samples)))
    return Interval.of(np.array(arm.right()) - (1 - share) * below - share * above)


def _total(entries: Sequence[Entry], who: str, what: str) -> int:
    return sum(entry[who][what] for entry in entries)


def _share(part: float, whole: float) -> float:
    if not whole:
        raise Unmeasured("the engine made nothing")
    return part / whole
