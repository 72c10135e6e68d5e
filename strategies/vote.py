"""Counting answers that say the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from strategies.answers import AnswerKind, extract_answer, find_same
from strategies.engine import Generation
from strategies.session import Session


@dataclass(slots=True)
class Group:
    """Samples that agree. The first of them speaks for all."""

    answer: str
    first: Generation
    votes: int = 1
    weight: float = 1.0
    """Sum of the weights of its votes."""


class Vote:
    """A running majority vote."""

    def __init__(self, kind: AnswerKind) -> None:
        self._kind = kind
        self.groups: list[Group] = []

    @property
    def cast(self) -> int:
        """Votes so far."""
        return sum(group.votes for group in self.groups)

    async def add(self, sample: Generation, weight: float = 1.0) -> Group:
        """Counts one sample, with a weight, into the first group that it agrees with."""
        answer = extract_answer(sample.text, self._kind)
        same = await find_same(answer, [group.answer for group in self.groups], self._kind)
        if same is not None:
            self.groups[same].votes += 1
            self.groups[same].weight += weight
            return self.groups[same]
        self.groups.append(Group(answer, sample, weight=weight))
        return self.groups[-1]

    def winner(self) -> Group:
        """The heaviest group; of equals the one that came first."""
        return max(self.groups, key=lambda group: group.weight)

    def decided(self, running: int) -> bool:
        """Whether `running` further votes, all for the same answer, could not even draw level with the winner."""
        counts = sorted((group.votes for group in self.groups), reverse=True)
        if not counts:
            return False
        runner_up = counts[1] if len(counts) > 1 else 0
        return counts[0] > runner_up + running


async def vote_among(answers: Sequence[Generation], kind: AnswerKind, engine: Session) -> Vote:
    """The vote of those that came to their end, or of all if none did."""
    vote = Vote(kind)
    for answer in [answer for answer in answers if answer.complete] or answers:
        await engine.bounded(vote.add(answer))
    return vote
