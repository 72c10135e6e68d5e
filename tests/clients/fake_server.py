"""A server that speaks the wire format of redraft and thinks nothing: the other side of the client tests.

As a script, `fake_server.py [MODE] serve --host HOST --port PORT` stands in for `redraft serve`.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

MODEL = "smollm2-135m"
ORCHESTRATORS = {"self_refine": True, "best_of_n": True, "ttsi": False}
DECODERS = {"srgen": True}
STRATEGIES = [
    {
        "name": name,
        "summary": f"what {name} does",
        "paper": None,
        "parameters": {"type": "object", "properties": {"rounds": {"type": "integer"}}},
        "needs": ["training"] if name == "ttsi" else [],
        "available": available,
        "kind": kind,
    }
    for kind, names in (("orchestrator", ORCHESTRATORS), ("decoder", DECODERS))
    for name, available in names.items()
]
# (event, branch, role, text): two samples interleave, then branch 0 critiques.
WORK: list[tuple[str, int, str, str]] = [
    ("thought", 0, "draft", "Six "),
    ("thought", 1, "draft", "Maybe "),
    ("thought", 0, "draft", "[b]by seven"),
    ("thought", 1, "draft", "forty"),
    ("thought", 0, "critique", "Fine."),
    ("note", 0, "critique", "kept branch 0"),
    ("answer", 0, "final", "It is "),
    ("answer", 0, "final", "42."),
]
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 20,
    "total_tokens": 50,
    "completion_tokens_details": {"reasoning_tokens": 15},
}

app = FastAPI()
app.state.requests = []
app.state.abandoned = 0
app.state.failing = ""


def refuse(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status)


@app.get("/health")
def health() -> Response:
    return Response()


@app.get("/v1/models")
def models() -> dict[str, Any]:
    names = [MODEL, *(f"{MODEL}@{name}" for name in ORCHESTRATORS)]
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "redraft"} for name in names]
    return {"object": "list", "data": data}


@app.get("/v1/strategies")
def strategies() -> dict[str, Any]:
    return {"object": "list", "data": STRATEGIES}


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    body = await request.json()
    app.state.requests.append({**body, "authorization": request.headers.get("authorization")})
    base, _, alias = body["model"].partition("@")
    wished = body.get("strategy") or {}
    name = alias or (wished if isinstance(wished, str) else wished.get("name"))
    if base != MODEL:
        return refuse(404, f"no model {base}")
    if name and name.split("+")[0] not in {*ORCHESTRATORS, *DECODERS}:
        return refuse(400, f"no strategy {name}")
    if app.state.failing == name:
        return refuse(400, "failing as told")
    if body.get("stream"):
        return StreamingResponse(lines(body, name), media_type="text/event-stream")
    message: dict[str, Any] = {"role": "assistant", "content": "It is 42.", "reasoning": "Six by seven"}
    if body.get("tools"):
        function = {"name": body["tools"][0]["function"]["name"], "arguments": '{"city": "Paris"}'}
        message |= {"content": None, "tool_calls": [{"id": "call_0", "type": "function", "function": function}]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": body["model"]}
    return JSONResponse(whole | {"choices": [choice], "usage": USAGE, "strategy": report(name) if name else None})


@app.post("/v1/responses")
async def responses(request: Request) -> dict[str, Any]:
    body = await request.json()
    text = {"type": "output_text", "text": "Rome.", "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "model": body["model"],
        "status": "completed",
        "output": [item],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }


def report(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "params": {"rounds": 1},
        "rounds": 1,
        "engine_calls": 3,
        "stop_reason": "kept",
        "seconds": 0.5,
        "notes": [{"kind": "vote", "text": "kept branch 0", "votes": 2}],
    }


async def lines(body: dict[str, Any], name: str | None) -> AsyncIterator[str]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}

    def chunk(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return "data: " + json.dumps({**head, "choices": [choice], **more}) + "\n\n"

    asked = body["messages"][-1]["content"]
    try:
        yield chunk({"role": "assistant", "content": ""})
        yield ": heartbeat\n\n"
        if asked == "break":
            yield 'data: {"error": {"message": "the engine died", "code": 503}}\n\n'
            return
        for event, branch, role, text in WORK:
            await asyncio.sleep(60 if asked == "sleep" and event == "note" else 0.001)
            if name is None:
                if event == "answer":
                    yield chunk({"content": text})
                continue
            delta = {"reasoning": text} if event == "thought" else {"content": text} if event == "answer" else {}
            note = {"kind": "vote", "text": text, "votes": 2} if event == "note" else None
            beside = {"event": event, "branch": branch, "role": role, "note": note}
            yield chunk(delta, strategy=beside)
        last = {"strategy": report(name)} if name else {}
        counted = (body.get("stream_options") or {}).get("include_usage")
        yield chunk({}, "stop", **({} if counted else last))
        if counted:
            yield "data: " + json.dumps({**head, "choices": [], "usage": USAGE, **last}) + "\n\n"
        yield "data: [DONE]\n\n"
    except asyncio.CancelledError:
        app.state.abandoned += 1
        raise


def main() -> None:
    """Serve, or fail in the way that MODE says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["well", "dead", "deaf", "failing"])
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    print("pid", os.getpid(), flush=True)
    print("\x1b[32mLoading weights\x1b[0m", flush=True)
    if args.mode == "dead":
        sys.exit("no space left for [the] model")
    if args.mode == "deaf":
        time.sleep(60)
    app.state.failing = "best_of_n" if args.mode == "failing" else ""
    uvicorn.run(app, host=args.host, port=args.port)


if __name__ == "__main__":
    main()
