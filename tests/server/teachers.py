"""A teacher that says what a test wants: an OpenAI-compatible endpoint on a socket of its own."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

SILENCE = Response()
"""To be sent never."""


class ScriptedTeacher:
    """What it says to whom. It asks no more of a request than that it looks like one for a pair."""

    def __init__(self) -> None:
        self.url = ""
        """To /v1."""
        self.replies: dict[str, Response] = {}
        """By what stands in the prompt."""
        self.asked: list[dict[str, Any]] = []

    def knows(self, question: str, similar: str, name: str, arguments: Any) -> None:
        """To whoever asks with the question, it says a similar one and its call."""
        pair = {"question": similar, "call": {"name": name, "arguments": arguments}}
        self.replies[question] = saying(json.dumps(pair))

    async def answer(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = await request.json()
        self.asked.append(body)
        assert body["response_format"]["type"] == "json_schema"
        prompt = body["messages"][-1]["content"]
        (reply,) = (reply for question, reply in self.replies.items() if question in prompt)
        while reply is SILENCE and not await request.is_disconnected():
            await asyncio.sleep(0.05)
        return reply


def saying(text: Any) -> Response:
    """A chat completion of one message."""
    return JSONResponse({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})


@contextmanager
def running_teacher() -> Iterator[ScriptedTeacher]:
    """One that listens."""
    teacher, app = ScriptedTeacher(), FastAPI()
    app.post("/v1/chat/completions", response_model=None)(teacher.answer)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    teacher.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    yield teacher
    server.should_exit = True
    thread.join(10)
