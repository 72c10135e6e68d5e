"""The operator's stronger model, which writes what another learns from: any OpenAI-compatible endpoint."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import openai
from prometheus_client import Counter

from strategies.engine import Message, NotTaught

SECONDS = 60.0
CALLS = Counter("redraft_teacher_calls", "Calls of the teacher by outcome.", ["outcome"])
TOKENS = Counter("redraft_teacher_tokens", "Tokens that the teacher says it took, prompts and answers.")
logger = logging.getLogger("redraft.teacher")


class Teacher:
    """Asks one model of one endpoint. No request chooses either.

    Args:
        url: of the endpoint, to /v1.
        model: its name there.
        key: for it.
        at_once: calls side by side; more wait, first come, first served.
    """

    def __init__(self, url: str, model: str, key: str, at_once: int) -> None:
        self._client = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=SECONDS, max_retries=1)
        self._model = model
        self._free = asyncio.Semaphore(at_once)

    async def teach(self, messages: Sequence[Message], schema: Mapping[str, Any], max_tokens: int) -> str:
        """Its answer as JSON of a schema. Raises NotTaught."""
        shape: Any = {"type": "json_schema", "json_schema": {"name": "pair", "schema": schema}}
        conversation: Any = list(messages)
        outcome = "left"
        try:
            async with self._free:
                answer = await self._client.chat.completions.create(
                    model=self._model, messages=conversation, response_format=shape, max_completion_tokens=max_tokens
                )
            text = answer.choices[0].message.content
            tokens = getattr(answer.usage, "total_tokens", 0)
            TOKENS.inc(tokens if isinstance(tokens, int) and tokens > 0 else 0)
            outcome = "answered"
        except Exception as error:  # The SDK checks no shape: what answers there may be anything.
            outcome = "failed"
            # What it says may hold the operator's address or key: the log has it, the client does not.
            logger.warning("the teacher does not answer: %s: %s", type(error).__name__, error)
            raise NotTaught(f"the teacher does not answer ({type(error).__name__})") from error
        finally:
            CALLS.labels(outcome).inc()
        return text if isinstance(text, str) else ""

    async def close(self) -> None:
        """Closes its connections."""
        await self._client.close()
