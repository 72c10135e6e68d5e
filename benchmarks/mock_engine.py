"""An engine that costs nothing and takes a known time: what is left of a request's seconds is the gateway's.

`register` is a vLLM plugin (group `vllm.general_plugins`). It lets AsyncLLM answer by the clock, for every request
alike and however many there are; everything in front of the engine stays as it is.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

FIRST_TOKEN_SECONDS = 0.05
TOKEN_SECONDS = 0.01
NAME = "redraft_mock_engine"


def register() -> None:
    """Makes this process's AsyncLLM a mock; vLLM calls it before it starts an engine."""
    from vllm.v1.engine.async_llm import AsyncLLM

    AsyncLLM.generate = _generate  # type: ignore[assignment]


async def _generate(
    engine: Any, prompt: Mapping[str, Any], sampling_params: Any, request_id: str, **options: Any
) -> AsyncIterator[Any]:
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import RequestOutputKind

    whole = sampling_params.output_kind == RequestOutputKind.FINAL_ONLY
    count = sampling_params.max_tokens
    for number in range(count):
        await asyncio.sleep(TOKEN_SECONDS if number else FIRST_TOKEN_SECONDS)
        last = number == count - 1
        if whole and not last:
            continue
        tokens = [1000] * (count if whole else 1)
        yield RequestOutput(
            request_id=request_id,
            prompt=None,
            prompt_token_ids=list(prompt["prompt_token_ids"]),
            prompt_logprobs=None,
            outputs=[
                CompletionOutput(0, " word" * len(tokens), tokens, None, None, finish_reason="length" if last else None)
            ],
            finished=last,
            num_cached_tokens=0,
        )
