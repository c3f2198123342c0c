"""A model that says what it has heard: the number of the user's messages, and the last one."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web


def model_app() -> web.Application:
    """`/v1/chat/completions` and `/v1/models` of OpenAI's API."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", _complete)
    app.router.add_get("/v1/models", _models)
    return app


async def _models(request: web.Request) -> web.Response:
    model = {"id": "scripted", "object": "model", "context_length": 200_000}
    return web.json_response({"object": "list", "data": [model]})


async def _complete(request: web.Request) -> web.StreamResponse:
    asked = await request.json()
    heard = [message["content"] for message in asked["messages"] if message["role"] == "user"]
    said = {"role": "assistant", "content": f"heard {len(heard)}: {heard[-1]}"}
    if not asked.get("stream"):
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        return web.json_response(_completion("chat.completion", [choice]))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for delta, reason in ((said, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        event = json.dumps(_completion("chat.completion.chunk", [choice]))
        await response.write(b"data: %b\n\n" % event.encode())
    await response.write(b"data: [DONE]\n\n")
    return response


def _completion(kind: str, choices: list[Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {
        "id": "chatcmpl-1", "object": kind, "created": 1_700_000_000, "model": "scripted",
        "choices": choices, "usage": usage,
    }  # fmt: skip
