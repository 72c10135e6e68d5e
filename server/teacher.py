"""The operator's stronger model, which writes what another learns from: any OpenAI-compatible endpoint."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import openai

from strategies.engine import Message, NotTaught

SECONDS = 60.0
logger = logging.getLogger("redraft.teacher")


class Teacher:
    """Asks one model of one endpoint. No request chooses either.

    Args:
        url: of the endpoint, to /v1.
        model: its name there.
        key: for it.
    """

    def __init__(self, url: str, model: str, key: str) -> None:
        self._client = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=SECONDS, max_retries=1)
        self._model = model

    async def teach(self, messages: Sequence[Message], schema: Mapping[str, Any], max_tokens: int) -> str:
        """Its answer as JSON of a schema. Raises NotTaught."""
        shape: Any = {"type": "json_schema", "json_schema": {"name": "pair", "schema": schema}}
        conversation: Any = list(messages)
        try:
            answer = await self._client.chat.completions.create(
                model=self._model, messages=conversation, response_format=shape, max_tokens=max_tokens
            )
            text = answer.choices[0].message.content
        except Exception as error:  # The SDK checks no shape: what answers there may be anything.
            # What it says may hold the operator's address or key: the log has it, the client does not.
            logger.warning("the teacher does not answer: %s: %s", type(error).__name__, error)
            raise NotTaught(f"the teacher does not answer ({type(error).__name__})") from error
        return text if isinstance(text, str) else ""

    async def close(self) -> None:
        """Closes its connections."""
        await self._client.close()
