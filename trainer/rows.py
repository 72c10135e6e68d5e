"""What is trained on: rows of token ids, so that loss masks are exact whatever a chat template does.

    SFT         prompt, chosen             the loss is that of `chosen` alone
    preference  prompt, chosen, rejected   both go on from `prompt`

A prompt ends where the model begins to answer, and an answer ends with the token that ends it, which is learnt too:
else a model learns to answer and not to stop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from transformers import PreTrainedTokenizerBase


class TemplateError(ValueError):
    """No row can be made with this chat template."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...] | None = None
    kind: str = ""
    """What it shows, for counts."""

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        """From a line of a file."""
        rejected = line.get("rejected")
        return cls(
            tuple(line["prompt"]),
            tuple(line["chosen"]),
            None if rejected is None else tuple(rejected),
            line.get("kind", ""),
        )

    def line(self) -> dict[str, Any]:
        """For a file."""
        found: dict[str, Any] = {"kind": self.kind, "prompt": self.prompt, "chosen": self.chosen}
        return found if self.rejected is None else {**found, "rejected": self.rejected}

    @property
    def length(self) -> int:
        """Tokens of its longer sequence."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected or ()))


class Template:
    """A tokenizer's chat template, as it writes questions and answers.

    Args:
        tokenizer: of the model.
        ends: tokens with which the model ends an answer; its tokenizer's alone by default.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        eos = tokenizer.eos_token_id
        self.ends = tuple(dict.fromkeys([*ends, *([] if eos is None else [int(eos)])]))
        if not self.ends:
            raise TemplateError("the tokenizer has no token that ends an answer")

    @cached_property
    def end(self) -> int:
        """The token that ends an answer, as the template writes it."""
        return self.answer("a", "b")[-1]

    def id_of(self, token: str) -> int:
        """Of a token that the tokenizer has."""
        found = self.tokenizer.get_vocab()[token]
        return int(found)

    def prompt(self, question: str) -> tuple[int, ...]:
        """A question, ready to be answered."""
        return self._ids(self._text([{"role": "user", "content": question}], add_generation_prompt=True))

    def answer(self, question: str, text: str) -> tuple[int, ...]:
        """How an answer to a question goes on from its prompt, to the token that ends it.

        Raises:
            TemplateError: the template writes something else between the prompt and the answer, or no end behind it.
        """
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        begun, written = self._text(turns[:1], add_generation_prompt=True), self._text(turns)
        prompt, whole = self._ids(begun), self._ids(written)
        if not written.startswith(begun):
            # Such as a thought that is opened for the model, and of which an answer in the conversation has nothing.
            same = next(i for i, letter in enumerate(begun) if written[i : i + 1] != letter)
            behind = begun[same:]
            raise TemplateError(f"the chat template lets the model begin behind {behind!r}, and writes no answer there")
        # Where the prompt's end and the answer's beginning are one token in the conversation, the model writes two.
        rest = whole[len(prompt) :] if whole[: len(prompt)] == prompt else self._ids(written[len(begun) :])
        end = next((i for i, token in enumerate(rest) if token in self.ends), None)
        # Some templates leave the end to the trainer.
        answer = (*rest, self.ends[-1]) if end is None else rest[: end + 1]
        if text.strip() not in self.tokenizer.decode(list(answer), skip_special_tokens=False):
            raise TemplateError(f"the chat template changes an answer, or ends it early: {text[:200]!r}")
        return answer

    def without_end(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """A sampled answer without the token that ends it."""
        ids = tuple(token_ids)
        return ids[:-1] if ids and ids[-1] in self.ends else ids

    def _text(self, turns: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                [dict(turn) for turn in turns], tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def _ids(self, text: str) -> tuple[int, ...]:
        # As vLLM's own renderer does: special tokens stand in the template, none are added.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tuple(ids)
