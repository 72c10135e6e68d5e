from typing import Any, cast

import pytest
from gguf import GGUFReader
from transformers import PreTrainedTokenizerBase

from server.models.default import CHAT_TEMPLATE, packaged_gguf

Message = dict[str, Any]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
QUESTION = {"role": "user", "content": "Weather in Málaga?"}
CALL: Message = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Málaga"}}},
        {"id": "2", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}},
    ],
}
RESULTS = [
    {"role": "tool", "tool_call_id": "1", "content": "28 C"},
    {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "9 C"}]},
]


@pytest.fixture(scope="module")
def original() -> str:
    """The template inside the model's package."""
    gguf = packaged_gguf()
    assert gguf is not None
    template: str = GGUFReader(gguf).fields["tokenizer.chat_template"].contents()
    return template


@pytest.fixture
def render(tokenizer: PreTrainedTokenizerBase) -> Any:
    def render(messages: list[Message], **options: Any) -> str:
        options = {"chat_template": CHAT_TEMPLATE.read_text(), "add_generation_prompt": True, **options}
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
        return cast(str, tokenizer.decode(cast(list[int], ids)))

    return render


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize(
    "messages",
    [
        [QUESTION],
        [{"role": "system", "content": "Be brief."}, QUESTION],
        [{"role": "system", "content": ""}, QUESTION],
        [QUESTION, {"role": "assistant", "content": " 20 C\n"}, {"role": "user", "content": "\n  And Oslo? "}],
        [QUESTION, {"role": "system", "content": "In Fahrenheit."}, QUESTION],
    ],
)
def test_same_as_the_models_own_without_tools(
    render: Any, original: str, messages: list[Message], add_generation_prompt: bool
) -> None:
    ours = render(messages, add_generation_prompt=add_generation_prompt)
    assert ours == render(messages, chat_template=original, add_generation_prompt=add_generation_prompt)


def test_tools_reach_the_prompt(render: Any) -> None:
    prompt = render([QUESTION], tools=TOOLS)
    system, question = prompt.split("<|im_end|>\n", 1)
    assert system.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert '<tools>\n{"type": "function", "function": {"name": "get_weather"' in system
    assert '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>' in system
    assert question == "<|im_start|>user\nWeather in Málaga?<|im_end|>\n<|im_start|>assistant\n"


def test_tools_follow_the_callers_system_message(render: Any) -> None:
    prompt = render([{"role": "system", "content": "Be brief."}, QUESTION], tools=TOOLS)
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert prompt.count("<|im_start|>system") == 1


def test_calls_and_their_results(render: Any) -> None:
    prompt = render([QUESTION, CALL, *RESULTS], tools=TOOLS)
    assert prompt.endswith(
        "<|im_start|>assistant\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Málaga"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n"
        "<tool_response>\n28 C\n</tool_response>\n"
        "<tool_response>\n9 C\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_text_before_a_call_stays(render: Any) -> None:
    prompt = render([QUESTION, {**CALL, "content": "Let me look."}], add_generation_prompt=False)
    assert "<|im_start|>assistant\nLet me look.\n<tool_call>" in prompt


def test_null_content_is_an_empty_turn(render: Any) -> None:
    prompt = render([QUESTION, {"role": "assistant", "content": None}, QUESTION])
    assert "<|im_start|>assistant\n<|im_end|>\n" in prompt


def test_parts_are_joined_by_lines(render: Any) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert render([{"role": "user", "content": parts}]) == render([{"role": "user", "content": "one\ntwo"}])


def test_final_message_can_go_on(render: Any) -> None:
    messages = [QUESTION, {"role": "assistant", "content": "It is"}]
    prompt = render(messages, add_generation_prompt=False, continue_final_message=True)
    assert prompt.endswith("<|im_start|>assistant\nIt is")
