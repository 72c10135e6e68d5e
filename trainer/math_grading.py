"""Whether two answers in mathematics are the same: by math-verify, and by their letters where it would compute words.

math-verify looks for what it can read wherever it stands. An answer that lists candidates, denies one, or equates two
different numbers is held to what it says first, so that it is not right for naming the right one too.
"""

import re

_FUNCTIONS = r"(?:(?:a|arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|sqrt|pi|inf|Abs)"
_WORD = re.compile(rf"(?<!\\)\b(?!{_FUNCTIONS}\b)[^\W\d_]{{2}}")
_OPERATORS = frozenset("\\+*^=<>/")
_DATE = re.compile(r"\d+-\d+-\d+|\d+/\d+/\d+|\d+:\d+(?::\d+)?")
_DENIED = re.compile(r"(?i)\b(?:no|not|never|wrong|incorrect|isn\W?t|cannot)\b")
_BEHIND_THE_FIRST = re.compile(r",\s|;|\s(?:and|or|because|which|since)\s")
_NAME = re.compile(r"\s*\$?\s*[^\W\d_](?:\([^\W\d_]\))?\s*")
_BOTH_SIGNS = ("\\pm", "\\mp", "±")
_BRACKETS = frozenset("([{")


def same(answer: str, wanted: str) -> bool:
    """Whether an answer says what is wanted. What cannot be read does not.

    Args:
        answer: as it was given, without what leads to it.
        wanted: number, formula, set, or words.
    """
    if is_text(wanted) and "\\" not in answer:
        return alike(answer, wanted)
    if _DENIED.search(answer) and not _DENIED.search(wanted):
        return False
    if not ("," in wanted or _BEHIND_THE_FIRST.search(wanted)):
        answer = _BEHIND_THE_FIRST.split(answer, maxsplit=1)[0]
    if "%" not in wanted:
        answer = answer.replace("\\%", "").replace("%", "")  # Else 500% would be 5.
    if any(sign in answer and sign not in wanted for sign in _BOTH_SIGNS):
        return False  # Two answers, of which one may be right.
    if _bracket(wanted) and _bracket(answer) not in ("", _bracket(wanted)):
        return False
    sides = [answer] if "=" in wanted else [side for side in answer.split("=") if not _NAME.fullmatch(side)]
    return bool(sides) and all(_equal(side, wanted) for side in sides)


def is_text(wanted: str) -> bool:
    """Whether what is wanted is words, a date or a time, of which math-verify would compute something: no would be on,
    and Paris Pairs.
    """
    return bool(_DATE.fullmatch(wanted)) or (bool(_WORD.search(wanted)) and not _OPERATORS & set(wanted))


def _equal(answer: str, wanted: str) -> bool:
    from math_verify import parse, verify  # type: ignore[import-untyped]

    # A formula as it is, or wherever it stands in a sentence. Time-outs take signals; this process has its own.
    gold, *found = (parse(one, parsing_timeout=None) for one in (f"${wanted}$", f"${answer}$", answer))
    return any(verify(gold, one, timeout_seconds=None) for one in found)


def alike(one: str, other: str) -> bool:
    """Whether two texts have the same letters, whatever their case and white space."""
    one, other = ("".join(text.casefold().split()) for text in (one, other))
    return one == other


def _bracket(text: str) -> str:
    """With which it begins, if it does."""
    begun = text.strip().strip("$").removeprefix("\\left").lstrip("\\ ")[:1]
    return begun if begun in _BRACKETS else ""
