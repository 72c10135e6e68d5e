r"""Final answers: what an answer's text comes down to, and whether two of them say the same.

The rule, for kind `auto`:
1. Text that is JSON, tool calls too, is compared by value.
2. Text whose last line (or last \boxed{}) holds a number or a LaTeX expression is compared by that, with math-verify;
   where all that is called the answer is arithmetic, such as `3 + 5 - 2`, by its value.
3. Any other text is compared whole, without case, punctuation at its ends and runs of white space.
"""

import ast
import json
import logging
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Literal

from strategies.judge import Undecided, judged

AnswerKind = Literal["auto", "math", "choice", "text"]


def extract_answer(text: str, kind: AnswerKind) -> str:
    """The final answer in a text, as the kind has it; the whole text, normalised, where there is none."""
    text = text.strip()
    if kind == "text":
        return normalise(text)
    if kind == "auto" and (canonical := _canonical_json(text)) is not None:
        return canonical
    whole, text = text, text[-_SEARCHED:]
    if kind == "choice":
        letters = _CHOICE.findall((_MARKED.findall(text) or [""])[-1])[:1] or _CHOICE.findall(text)[-1:]
        return letters[0].upper() if letters else normalise(whole)
    if (boxed := last_boxed(text)) is not None:
        return boxed
    marked = _MARKED.findall(text)
    if marked:
        named: str = marked[-1].strip(" .$*")
        if _is_arithmetic(named):
            return named
    scope = marked[-1] if marked else text.rsplit("\n", 1)[-1] if kind == "auto" else text
    expressions = _EXPRESSION.findall(scope)
    if expressions:
        matched: str = next(filter(None, expressions[-1]))
        return matched.strip()
    return normalise(marked[-1] if marked else whole)


async def find_same(answer: str, known: Sequence[str], kind: AnswerKind) -> int | None:
    """The position of the first known answer that says the same, None if none does.

    Expressions that are no plain numbers are compared in another process, within JUDGE_SECONDS for all together: those
    that take longer count as different, for `9^9^9^9` must not hold up a vote.
    """
    if answer in known:
        return known.index(answer)
    if kind in ("text", "choice") or not _is_expression(answer):
        return None
    if (value := _number(answer)) is not None:
        for position, other in enumerate(known):
            if _number(other) == value:
                return position
    symbolic = [(i, other) for i, other in enumerate(known) if _is_expression(other)]
    if value is not None:
        symbolic = [(i, other) for i, other in symbolic if _number(other) is None]
    if not symbolic:
        return None
    try:
        found = await judged(_first_equal, answer, [other for _, other in symbolic])
    except Undecided:
        return None
    return None if found is None else symbolic[found][0]


def normalise(text: str) -> str:
    """Free text without case, runs of white space, and punctuation at its ends."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'`*")


def _canonical_json(text: str) -> str | None:
    """JSON documents by value, one or several, also between the tags that models put around tool calls."""
    text = _TAG.sub(" ", text).strip()
    if not text.startswith(("{", "[")):
        return None
    decoder, documents = json.JSONDecoder(parse_float=_parse_float), list[str]()
    try:
        while text:
            document, end = decoder.raw_decode(text)
            documents.append(json.dumps(document, sort_keys=True, separators=(",", ":")))
            text = text[end:].lstrip(" \n,;")
    except (ValueError, RecursionError):
        return None
    return "\n".join(documents)


def _parse_float(text: str) -> int | float:
    """1.0 is 1."""
    value = float(text)
    return int(value) if value.is_integer() else value


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{}, with its braces balanced."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len(r"\boxed{")
    for position in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position].strip()
    return None


def _is_expression(answer: str) -> bool:
    return (
        len(answer) <= _LONGEST_EXPRESSION
        and bool(re.search(r"[\d\\]", answer))
        and not answer.startswith(("{", "["))
        and len(_WORD.findall(answer)) < _PROSE_WORDS
    )


def _number(answer: str) -> Fraction | None:
    """A plain number by value: 1,234 is 1234, $5.00 is 5, 3/4 is 0.75, 50% is 0.5, 3 + 5 - 2 is 6."""
    if _is_arithmetic(answer):
        try:
            return _value(ast.parse(answer.strip(), mode="eval").body)
        except (SyntaxError, ValueError, ZeroDivisionError):
            return None
    text = answer.replace(",", "").replace("$", "").replace(" ", "")
    percent = text.endswith("%")
    if not _PLAIN.fullmatch(text.removesuffix("%")):
        return None
    try:
        return Fraction(*(Fraction(part) for part in text.removesuffix("%").split("/"))) / (100 if percent else 1)
    except (ValueError, ZeroDivisionError):  # Python refuses to read thousands of digits.
        return None


def _is_arithmetic(answer: str) -> bool:
    """Numbers and the four operations, and more than one number; `3/4` and `-3` are numbers, `2020-10-12` is a date."""
    return (
        len(answer) <= _LONGEST_ARITHMETIC
        and bool(_ARITHMETIC.fullmatch(answer))
        and not _PLAIN.fullmatch(answer.replace(" ", ""))
        and not _DATE.fullmatch(answer)
    )


def _value(node: ast.expr) -> Fraction:
    """Of arithmetic. Raises ValueError for anything else, ZeroDivisionError."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and (operation := _OPERATIONS.get(type(node.op))):
        return operation(_value(node.left), _value(node.right))
    raise ValueError(ast.dump(node))


def _first_equal(answer: str, known: Sequence[str]) -> int | None:
    """Runs in the judge's process, which keeps the time, not math-verify's signals."""
    from math_verify import parse, verify  # type: ignore[import-untyped]

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # It warns, at each call, that its signals are off.
    parsed = parse(f"${answer}$", parsing_timeout=None)
    for position, other in enumerate(known):
        candidate = parse(f"${other}$", parsing_timeout=None)
        # verify is not symmetric: it reads its first argument as the gold answer.
        if verify(parsed, candidate, timeout_seconds=None) or verify(candidate, parsed, timeout_seconds=None):
            return position
    return None


_SEARCHED = 10_000
"""Characters at the end of a text in which its final answer is looked for, in the event loop."""
_LONGEST_EXPRESSION = 400
_PROSE_WORDS = 3
"""Text of so many words is prose, and is compared whole: math-verify would compare the numbers in it."""
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_LONGEST_ARITHMETIC = 100
_ARITHMETIC = re.compile(r"(?=.*\d[\s)]*[-+*/])[\d\s()+*/-]+")
_DATE = re.compile(r"\d+(?:-\d+)+|\d+(?:/\d+)+")
"""Or what else is written so."""
_OPERATIONS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+(?:\.\d+)?)?")
_NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+(?:\.\d+)?)?%?"
_EXPRESSION = re.compile(
    rf"\$\$(.+?)\$\$|\$([^$\d][^$]*|\d[^$=+*^\\]*[=+*^\\][^$]*)\$|\\\(((?:(?!\\\().)+?)\\\)|\\\[((?:(?!\\\[).)+?)\\\]|({_NUMBER})"
)
_TAG = re.compile(r"</?[A-Za-z_|]{1,32}>")
_MARKED = re.compile(r"(?:answer\s*(?:is|:|=)|####)\s*([^\n]+)", re.IGNORECASE)
_CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-Z])\)?(?![A-Za-z'])")
