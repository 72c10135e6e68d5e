"""One request to a gateway, whatever it leaves out of its answer."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.load import CHAT, MALFORMED, LoadError

ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer, or failure.

    Attributes:
        seconds: from sending to the last byte.
        texts: of its choices.
        usage: as reported; empty if it is not.
        first_byte: seconds to the first byte of the body of a stream.
        first_thought: seconds to the first text of a stream that is no part of the answer; None if there was none.
        first_answer: seconds to the first text of the answer in a stream; None if there was none.
        error: what went wrong; empty if nothing did.
    """

    seconds: float
    texts: Sequence[str] = ()
    usage: Mapping[str, Any] | None = None
    first_byte: float | None = None
    first_thought: float | None = None
    first_answer: float | None = None
    error: str = ""

    def checked(self) -> "Heard":
        """Itself. Raises LoadError if it is none."""
        if self.error:
            raise LoadError(self.error)
        return self

    @property
    def first_text(self) -> float | None:
        """Seconds to the first visible text of a stream, None if there was none."""
        return min((one for one in (self.first_thought, self.first_answer) if one is not None), default=None)

    @property
    def reported(self) -> dict[str, int]:
        """Tokens as the gateway counts them; what it does not count is 0."""
        usage = self.usage or {}
        return {"prompt": usage.get("prompt_tokens") or 0, "completion": usage.get("completion_tokens") or 0}


async def heard(http: httpx.AsyncClient, body: Mapping[str, Any]) -> Heard:
    """Sends one request and reads its answer to the end."""
    began = time.perf_counter()
    try:
        if body["stream"]:
            return await _streamed(http, body, began)
        response = await http.post(CHAT, json=body)
    except (httpx.HTTPError, *MALFORMED) as error:
        return Heard(time.perf_counter() - began, error=repr(error))
    seconds = time.perf_counter() - began
    try:
        if response.status_code == httpx.codes.OK:
            answer = response.json()
            texts = [choice["message"]["content"] or "" for choice in answer["choices"]]
            return Heard(seconds, texts, answer.get("usage"))
    except MALFORMED:
        pass
    return Heard(seconds, error=f"status {response.status_code}: {response.text[:ERROR_CHARACTERS]}")


async def left(http: httpx.AsyncClient, body: Mapping[str, Any], seconds: float) -> bool:
    """Sends one request and closes its connection after so many seconds; whether the answer was not there before."""
    task = asyncio.create_task(heard(http, body))
    done, _ = await asyncio.wait([task], timeout=seconds)
    if done:
        return False
    task.cancel()
    await asyncio.wait([task])
    return True


async def _streamed(http: httpx.AsyncClient, body: Mapping[str, Any], began: float) -> Heard:
    first_byte = first_thought = first_answer = None
    texts, usage, rest = [], None, b""
    async with http.stream("POST", CHAT, json=body) as response:
        if response.status_code != httpx.codes.OK:
            text = (await response.aread()).decode(errors="replace")[:ERROR_CHARACTERS]
            return Heard(time.perf_counter() - began, error=f"status {response.status_code}: {text}")
        async for piece in response.aiter_bytes():
            now = time.perf_counter() - began
            first_byte = now if first_byte is None else first_byte
            *lines, rest = (rest + piece).split(b"\n")
            for chunk in _chunks(lines):
                if chunk.get("error"):
                    return Heard(now, error=f"in the stream: {json.dumps(chunk['error'])[:ERROR_CHARACTERS]}")
                said = [choice.get("delta") or {} for choice in chunk.get("choices") or ()]
                if first_thought is None and any(delta.get("reasoning") for delta in said):
                    first_thought = now
                if first_answer is None and any(delta.get("content") for delta in said):
                    first_answer = now
                texts += [delta.get("content") or "" for delta in said]
                usage = chunk.get("usage") or usage
    return Heard(time.perf_counter() - began, ["".join(texts)], usage, first_byte, first_thought, first_answer)


def _chunks(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]
