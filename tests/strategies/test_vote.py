"""The majority vote."""

from itertools import product

import pytest

from strategies.answers import AnswerKind
from strategies.vote import Vote
from tests.strategies.scripted import generation_of


async def vote_of(answers: str, kind: AnswerKind = "text") -> Vote:
    """A vote in which each letter was an answer, in this order."""
    vote = Vote(kind)
    for branch, answer in enumerate(answers):
        await vote.add(generation_of(answer, branch=branch))
    return vote


@pytest.mark.parametrize(
    ("answers", "winner", "first", "votes"),
    [("a", "a", 0, 1), ("abb", "b", 1, 2), ("abba", "a", 0, 2), ("cabab", "a", 1, 2), ("abc", "a", 0, 1)],
)
async def test_most_votes_win_and_of_equals_the_first(answers: str, winner: str, first: int, votes: int) -> None:
    vote = await vote_of(answers)
    group = vote.winner()
    assert (group.answer, group.first.branch, group.votes, vote.cast) == (winner, first, votes, len(answers))


async def test_answers_that_say_the_same_are_one_group() -> None:
    vote = Vote("auto")
    samples = ["That makes\n$5.00", "#### 5", "five", "Hence\n5.0"]
    groups = [await vote.add(generation_of(text, branch=branch)) for branch, text in enumerate(samples)]
    assert [group.answer for group in vote.groups] == ["$5.00", "five"]
    assert groups[0] is groups[1] is groups[3]
    assert (groups[0].votes, groups[0].first.text, vote.cast) == (3, "That makes\n$5.00", 4)


async def test_nothing_is_decided_without_a_vote() -> None:
    assert not Vote("text").decided(0)
    assert not Vote("text").decided(3)


@pytest.mark.parametrize(
    ("answers", "running", "decided"),
    [
        ("aaa", 2, True),
        ("aa", 3, False),
        ("aab", 1, False),
        ("aaab", 1, True),
        ("abb", 1, False),
        ("a", 0, True),
        ("aa", 1, True),
    ],
)
async def test_decided(answers: str, running: int, decided: bool) -> None:
    assert (await vote_of(answers)).decided(running) == decided


async def test_what_is_decided_no_further_vote_changes() -> None:
    """All votes of 5 among 3 answers, stopped at each point."""
    stopped_early = 0
    for answers in map("".join, product("abc", repeat=5)):
        winner = (await vote_of(answers)).winner().answer
        for seen in range(1, 5):
            vote = await vote_of(answers[:seen])
            if vote.decided(5 - seen):
                stopped_early += 1
                assert vote.winner().answer == winner, f"{answers} after {seen}"
    assert stopped_early > 0
