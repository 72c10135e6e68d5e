"""Where prompts end and answers begin and end, whatever a chat template writes."""

from typing import Any

import pytest

from tests.engines import CHAT_TEMPLATE, _byte_tokenizer
from trainer.rows import Row, Template, TemplateError

CHATML = CHAT_TEMPLATE
TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
BEGIN = "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ENDS_WITH_NOTHING = TURN + "{{ m.content }}\n" + BEGIN
NO_PROMPT = TURN + "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>user{% endif %}"
UPPER = TURN + "{{ m.content | upper }}<|im_end|>" + BEGIN
THINKS = TURN + "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}<|im_end|>\n" + BEGIN
OPENS_A_THOUGHT = TURN + "{{ m.content }}<|im_end|>\n" + BEGIN.replace("assistant\n", "assistant\n<think>\n")


def template_of(text: str) -> tuple[Template, Any]:
    tokenizer = _byte_tokenizer()
    tokenizer.chat_template = text
    return Template(tokenizer), tokenizer


def test_an_answer_ends_with_the_token_that_ends_it() -> None:
    """It is learnt; the line break behind it, which the model never writes, is not."""
    template, tokenizer = template_of(CHATML)
    prompt, answer = template.prompt("2 + 2?"), template.answer("2 + 2?", "It is 4.")
    assert tokenizer.decode(prompt) == "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(answer) == "It is 4.<|im_end|>"
    assert template.without_end(answer) == answer[:-1]
    assert template.without_end(answer[:-1]) == answer[:-1]


def test_a_template_that_writes_no_end_gets_one() -> None:
    template, tokenizer = template_of(ENDS_WITH_NOTHING)
    answer = template.answer("2 + 2?", "It is 4.")
    assert answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(answer).startswith("It is 4.")


def test_what_a_template_writes_before_an_answer_is_learnt_with_it() -> None:
    template, tokenizer = template_of(THINKS)
    assert tokenizer.decode(template.answer("2 + 2?", "It is 4.")) == "<think></think>It is 4.<|im_end|>"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (NO_PROMPT, "begin behind 'user', and writes no answer there"),
        (OPENS_A_THOUGHT, r"begin behind '<think>\\n', and writes no answer there"),
        (UPPER, "changes an answer, or ends it early: 'It is 4.'"),
    ],
)
def test_a_template_of_which_no_row_can_be_made(text: str, told: str) -> None:
    template, _ = template_of(text)
    with pytest.raises(TemplateError, match=told):
        template.answer("2 + 2?", "It is 4.")


def test_an_answer_that_would_melt_into_its_prompt() -> None:
    """The model begins behind the prompt's own tokens, whatever the tokenizer makes of the whole conversation."""
    tokenizer: Any = _byte_tokenizer()
    tokenizer.add_tokens(["\nIt"])
    tokenizer.chat_template = CHATML
    template = Template(tokenizer)
    prompt, answer = template.prompt("2 + 2?"), template.answer("2 + 2?", "It is 4.")
    assert tokenizer.decode(prompt).endswith("assistant\n")
    assert tokenizer.decode(answer) == "It is 4.<|im_end|>"


def test_an_end_within_an_answer() -> None:
    template, _ = template_of(CHATML)
    with pytest.raises(TemplateError, match=r"ends it early: 'It is <\|im_end\|> 4\.'"):
        template.answer("2 + 2?", "It is <|im_end|> 4.")


def test_nothing_is_put_before_what_the_template_begins_with() -> None:
    """A tokenizer that puts a token before every text would do so twice."""
    tokenizer = _byte_tokenizer()
    tokenizer.chat_template = CHATML
    begin = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert Template(tokenizer).prompt("a").count(begin) == 2


def test_a_row_as_a_line() -> None:
    row = Row((1, 2), (3, 4), (4,), "wrong")
    assert Row.of(row.line()) == row
    assert row.length == 4
    plain = Row((1, 2), (3,), kind="gold")
    assert "rejected" not in plain.line()
    assert Row.of(plain.line()) == plain
