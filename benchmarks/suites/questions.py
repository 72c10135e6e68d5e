"""Questions with one checkable answer, graded as in trainings: by math-verify, or by reasoning-gym's own scorers."""

from collections.abc import Mapping, Sequence

from benchmarks.suites.base import Answer, Item, Suite, SuiteError, Verdict, user
from trainer.grading import check, graded, grader_of, vote
from trainer.tasks import TaskError, problems

INSTRUCTION = 'Think step by step, and end with a line that begins with "The answer is" and gives the answer.'
PUBLISHED: Mapping[str, str] = {
    "gsm8k": "openai/gsm8k:test:config=main",
    "math500": "HuggingFaceH4/MATH-500:test",
    "aime24": "HuggingFaceH4/aime_2024:train",
    "aime25": "math-ai/aime25:test",
    "amc": "math-ai/amc23:test",
    "svamp": "ChilleD/SVAMP:test",
}
"""Datasets of the hub, by name, with split and configuration."""


class Questions(Suite):
    """Of a task, as `trainer.tasks` names them.

    Args:
        name: of the suite.
        task: gym:NAME, file:PATH or hub:ID.
        count: of questions, at most.
        seed: which of them.
    """

    def __init__(self, name: str, task: str, count: int, seed: int) -> None:
        try:
            drawn = problems(task, count, seed)
            check(drawn, grader_of(task), task)
        except TaskError as error:
            raise SuiteError(str(error)) from error
        super().__init__(name, [Item(one.id, user(f"{one.question}\n{INSTRUCTION}"), one) for one in drawn])
        self._task = task

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """By the last answer in the text."""
        texts = [(one.text, one.item.reference) for one in answers]
        verdicts = graded(texts, grader_of(self._task), self._task)
        return [Verdict.of(right, vote(one.text)) for one, right in zip(answers, verdicts, strict=True)]
