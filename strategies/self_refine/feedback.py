"""What Self-Refine asks its model, and how it reads the feedback."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from strategies.engine import Message


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one critique found."""

    met: float
    """Share of the criteria met, 0 to 1; without criteria 1 if no fault was found, else 0."""
    faults: tuple[str, ...]
    """Criteria that are not met, or the critique itself."""
    passed: bool
    summary: str


def ask_for_feedback(criteria: Sequence[str]) -> Message:
    """The turn that asks for a critique of the answer before it."""
    if not criteria:
        return {"role": "user", "content": FEEDBACK}
    items = "\n".join(f"{number}. {criterion}" for number, criterion in enumerate(criteria, 1))
    return {"role": "user", "content": CRITERIA_FEEDBACK.format(items=items)}


def ask_for_revision() -> Message:
    """The turn that asks for a better answer after a critique."""
    return {"role": "user", "content": REVISION}


def read_feedback(feedback: str, criteria: Sequence[str]) -> Verdict:
    """Reads a critique, in doubt as one that finds fault: models say too readily that all is well.

    Without criteria its last line must be that verdict, in a few words, of the whole answer. A criterion is met if a
    line says so, and none says otherwise.
    """
    if not criteria:
        passed = bool(_PASS.fullmatch(feedback.strip().rpartition("\n")[2]))
        summary = "no fault found" if passed else "faults found"
        return Verdict(float(passed), () if passed else (feedback.strip(),), passed, summary)
    lines = [(int(number), bool(_MET.match(says))) for number, says in _ITEM.findall(feedback)]
    met = {number for number, says_met in lines if says_met} - {number for number, says_met in lines if not says_met}
    faults = tuple(criterion for number, criterion in enumerate(criteria, 1) if number not in met)
    kept = len(criteria) - len(faults)
    return Verdict(kept / len(criteria), faults, not faults, f"{kept} of {len(criteria)} criteria met")


_PASS = re.compile(
    r"(?!.*(?:\b(?:not|cannot|but|however|although|except|besides|hardly)\b|n't))"  # In doubt, a fault.
    r"\W*(?:\w+\W+){0,8}?no faults?\b"
    r"(?: (?:found|at all|here|(?:in|with) (?:the|my|your|this) (?:answer|response)))*\W*",
    re.IGNORECASE,
)
_ITEM = re.compile(r"^[^\w\n]*(\d+)[^\w\n]+(.*)$", re.MULTILINE)
_MET = re.compile(r"met\b(?!\W*\?)(?!.*\bnot met\b)", re.IGNORECASE)

FEEDBACK = """\
Check your answer above against my request, step by step. For every fault, quote the place where it is wrong and say \
how to mend it. Do not write a new answer. If there is nothing to mend, reply with the words: no fault."""

CRITERIA_FEEDBACK = """\
Check your answer above against each of these criteria:
{items}
Write one line for each, beginning with its number: either "1. met", or "1. not met:" with the place that fails and \
how to mend it. Do not write a new answer."""

REVISION = """\
Now answer my request again, with these faults mended. Write only the answer, without comments on the changes."""
