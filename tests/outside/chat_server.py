"""A small server that speaks `/v1/chat/completions`, in JSON and in streams, as a test lets it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

WORDS = ("one ", "two ", "three")


class ChatServer:
    """Says `WORDS`. In a stream, each one only when the test lets it.

    `remarks`: a comment before each word. `breaks`: the connection is lost instead of a word.
    """

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[tuple[Mapping[str, str], Any]] = []  # headers, body
        self.refusals: list[tuple[int, dict[str, str]]] = []  # the next answers: status, headers
        self.remarks = self.breaks = False
        self.client_left = asyncio.Event()
        self._may_say = asyncio.Semaphore(0)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        return app

    def say(self, words: int = 1) -> None:
        """Let it send this number of further words."""
        for _ in range(words):
            self._may_say.release()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.requests.append((request.headers, asked))
        if self.refusals:
            status, headers = self.refusals.pop(0)
            error = {"message": "not now", "type": "overloaded", "param": None, "code": None}
            return web.json_response({"error": error}, status=status, headers=headers)
        if asked.get("stream"):
            return await self._stream(request)
        message = {"role": "assistant", "content": "".join(WORDS)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": len(WORDS), "total_tokens": 4}
        return web.json_response(_completion("chat.completion", choice) | {"usage": usage})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for word in WORDS:
                async with asyncio.timeout(PATIENCE):
                    await self._may_say.acquire()
                if self.breaks:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if self.remarks:
                    await response.write(b": thinking\n\n")
                await response.write(_event({"content": word}))
            await response.write(_event({}, finish="stop") + b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.client_left.set()
            raise
        return response


def _completion(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "object": kind, "created": 1_700_000_000, "model": "scripted"}
    return head | {"choices": [choice]}


def _event(delta: dict[str, str], *, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %s\n\n" % json.dumps(_completion("chat.completion.chunk", choice)).encode()
