"""One engine call as a request of vLLM's token route, and that route's answers as vLLM's outputs."""

from pathlib import Path
from typing import Any

import pytest


def call_of(**params: Any) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    from server.engine.remote.wire import TokenCall

    sampling = SamplingParams(**{"max_tokens": 16, "output_kind": RequestOutputKind.DELTA, **params})
    prompt = {"type": "token", "prompt_token_ids": [1, 2, 3], "cache_salt": "salt"}
    return TokenCall("id-1", "tiny", prompt, sampling, priority=4)


def parsed(call: Any) -> Any:
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest

    return GenerateRequest.model_validate_json(call.body())


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def chunk(text: str, tokenizer: Any, **changes: Any) -> bytes:
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import (
        GenerateTokensStreamChoice,
        GenerateTokensStreamResponse,
    )

    choice = GenerateTokensStreamChoice(index=0, token_ids=tokenizer.encode(text), **changes)
    return GenerateTokensStreamResponse(choices=[choice]).model_dump_json().encode()


def test_all_of_a_call_arrives() -> None:
    from vllm.sampling_params import StructuredOutputsParams

    request = parsed(
        call_of(
            temperature=0.3,
            seed=5,
            stop=["x"],
            logit_bias={7: 2.0},
            structured_outputs=StructuredOutputsParams(json={"type": "object"}),
            extra_args={"srgen": "{}"},
        )
    )
    assert (request.token_ids, request.model, request.priority, request.cache_salt) == ([1, 2, 3], "tiny", 4, "salt")
    params = request.sampling_params
    assert (params.temperature, params.seed, params.stop, params.logit_bias) == (0.3, 5, ["x"], {7: 2.0})
    assert params.structured_outputs.json == {"type": "object"}
    assert params.extra_args == {"srgen": "{}"}


def test_what_is_vllms_default_is_said_all_the_same() -> None:
    # The route takes what is left out for not given, and would answer as long as the model can.
    request = parsed(call_of(max_tokens=16))
    assert request.is_sampling_param_provided("max_tokens")
    assert request.sampling_params.max_tokens == 16


@pytest.mark.parametrize(("asked", "sent"), [(None, None), (0, 0), (1, 2), (19, 20), (20, 20)])
def test_one_log_probability_more_is_asked_for(asked: int | None, sent: int | None) -> None:
    # The route counts the sampled token among the likeliest.
    assert parsed(call_of(logprobs=asked)).sampling_params.logprobs == sent


def test_text_is_held_back_where_it_may_be_a_stop_string(tokenizer: Any) -> None:
    from server.engine.remote.wire import Reader

    reader = Reader(call_of(stop=["end"]), tokenizer)
    texts = [out.outputs[0].text for text in ("so e", "ve", "n en") for out in reader.delta(chunk(text, tokenizer))]
    assert "".join(texts) == "so even "
    last = chunk("d", tokenizer, finish_reason="stop", stop_reason="end")
    assert list(reader.delta(last)) == []
    (output,) = reader.delta(b"[DONE]")
    assert (output.outputs[0].text, output.outputs[0].stop_reason, output.finished) == ("", "end", True)


def test_the_token_that_ends_an_answer_has_no_text(tokenizer: Any) -> None:
    from server.engine.remote.wire import Reader

    reader = Reader(call_of(skip_special_tokens=False), tokenizer)
    assert list(reader.delta(chunk("a<|im_end|>", tokenizer, finish_reason="stop"))) == []
    (output,) = reader.delta(b"[DONE]")
    assert output.outputs[0].text == "a"
    assert output.outputs[0].token_ids[-1] == tokenizer.eos_token_id


def test_the_likeliest_that_were_asked_for_are_kept(tokenizer: Any) -> None:
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import (
        GenerateLogProb,
        GenerateLogProbs,
        GenerateLogProbsContent,
    )

    from server.engine.remote.wire import Reader

    likeliest = [GenerateLogProb(token_id=token, logprob=-float(token), rank=token) for token in (1, 2, 3)]
    sampled = GenerateLogProb(token_id=65, logprob=-9.0, rank=40)
    content = GenerateLogProbsContent(**sampled.model_dump(), top_logprobs=[sampled, *likeliest])
    payload = chunk("b", tokenizer, logprobs=GenerateLogProbs(content=[content]))
    (output,) = Reader(call_of(logprobs=2), tokenizer).delta(payload)
    made: Any = output.outputs[0].logprobs
    (position,) = made
    assert {token: entry.rank for token, entry in position.items()} == {65: 40, 1: 1, 2: 2}
    assert position[65].decoded_token == tokenizer.decode([65])


def test_an_error_within_a_stream_has_its_status(tokenizer: Any) -> None:
    from server.engine.remote.faults import UpstreamError
    from server.engine.remote.wire import Reader

    with pytest.raises(UpstreamError, match="no room") as caught:
        list(Reader(call_of(), tokenizer).delta(b'{"error": {"message": "no room", "code": 503}}'))
    assert caught.value.status == 503


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"<html>", b'{"choices": [{"index": 0, "token_ids": [-1.5]}]}'])
def test_what_no_vllm_sends_is_a_fault(tokenizer: Any, payload: bytes) -> None:
    from server.engine.remote.faults import Fault
    from server.engine.remote.wire import Reader

    with pytest.raises(Fault, match="cannot be read"):
        list(Reader(call_of(), tokenizer).delta(payload))


def test_a_letter_of_two_tokens_has_its_text_at_the_second(tokenizer: Any) -> None:
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import (
        GenerateLogProb,
        GenerateLogProbs,
        GenerateLogProbsContent,
        GenerateTokensStreamChoice,
        GenerateTokensStreamResponse,
    )

    from server.engine.remote.wire import Reader

    reader, texts = Reader(call_of(logprobs=0), tokenizer), []
    for token in tokenizer.encode("ä"):
        entry = GenerateLogProb(token_id=token, logprob=-1.0, rank=1)
        content = GenerateLogProbsContent(**entry.model_dump(), top_logprobs=[entry])
        choice = GenerateTokensStreamChoice(index=0, token_ids=[token], logprobs=GenerateLogProbs(content=[content]))
        payload = GenerateTokensStreamResponse(choices=[choice]).model_dump_json().encode()
        for output in reader.delta(payload):
            made: Any = output.outputs[0].logprobs
            texts.append(made[0][token].decoded_token)
    assert texts == ["", "ä"]
