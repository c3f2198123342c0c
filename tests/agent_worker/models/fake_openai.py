"""A chat completions server with planned answers: whole, in pieces, or none."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from agent_worker.errors import EngineFailed
from agent_worker.models import EngineOptions, StepRequest, TextDelta

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from agent_worker.models import Engine, ToolCall

KEY = "sk-a-very-secret-key"

DONE = b"data: [DONE]\n\n"
COMMENT = b": still at work\n\n"


class Cut:
    """A part of an answer: the connection is dropped."""


@dataclass(frozen=True)
class Comments:
    """A part of an answer: comments, a tenth of a second apart."""

    count: int


Part = bytes | asyncio.Event | Cut | Comments


@dataclass(frozen=True)
class Answer:
    """The answer to one request. An event among the parts is awaited."""

    parts: tuple[Part, ...] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/event-stream"


@dataclass(frozen=True)
class Asked:
    headers: Mapping[str, str]
    body: dict[str, Any]
    #: The client's port, which identifies the connection.
    port: int


class FakeOpenAI:
    """Gives each request the next of `answers`."""

    def __init__(self) -> None:
        self.base_url = ""
        self.answers: list[Answer] = []
        self.asked: list[Asked] = []
        self.client_left = asyncio.Event()
        self._runner: web.AppRunner

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        await self._runner.cleanup()

    def options(self, **changes: Any) -> EngineOptions:
        return EngineOptions(
            **{"base_url": self.base_url, "api_key": KEY, "model": "m-1", **changes}
        )

    def will_say(self, *parts: Part, **answer: Any) -> None:
        self.answers.append(Answer(parts, **answer))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        port = request.transport.get_extra_info("peername")[1]
        self.asked.append(Asked(request.headers, await request.json(), port))
        answer = self.answers.pop(0)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_type = answer.content_type
        try:
            for part in answer.parts:
                if isinstance(part, Cut):
                    request.transport.abort()
                    return response
                if not response.prepared and not isinstance(part, asyncio.Event):
                    await response.prepare(request)
                await self._send(response, part)
        except (asyncio.CancelledError, ConnectionError):
            self.client_left.set()
            raise
        if not response.prepared:
            await response.prepare(request)
        return response

    async def _send(self, response: web.StreamResponse, part: Part) -> None:
        if isinstance(part, bytes):
            await response.write(part)
        elif isinstance(part, asyncio.Event):
            await part.wait()
        elif isinstance(part, Comments):
            for _ in range(part.count):
                await response.write(COMMENT)
                await asyncio.sleep(0.1)


def event(data: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m-1"}
    return event({**head, "choices": [choice]})


def says(text: str) -> bytes:
    return chunk({"content": text})


def finish(reason: str = "stop") -> bytes:
    return chunk({}, reason) + DONE


def calls(*fragments: dict[str, Any]) -> bytes:
    return chunk({"tool_calls": list(fragments)})


def fragment(
    index: int | None = 0,
    *,
    id: str | None = None,  # noqa: A002 - as the API calls it
    name: str | None = None,
    arguments: str | None = None,
) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    whole = {"index": index, "id": id, "type": "function"}
    return {
        **{key: value for key, value in whole.items() if value is not None},
        "function": {key: value for key, value in function.items() if value is not None},
    }


def asks(content: str, **request: Any) -> StepRequest:
    return StepRequest([{"role": "user", "content": content}], **request)


async def run(engine: Engine, request: StepRequest) -> tuple[str, list[ToolCall]]:
    """The step's text and calls. Raises EngineFailed."""
    text, tool_calls = "", []
    async for piece in engine.step(request):
        if isinstance(piece, TextDelta):
            text += piece.text
        else:
            tool_calls.append(piece)
    return text, tool_calls


async def fails(engine: Engine, request: StepRequest) -> tuple[str, EngineFailed]:
    """The text of a step before it failed, and the error."""
    text = ""
    try:
        async for piece in engine.step(request):
            assert isinstance(piece, TextDelta)
            text += piece.text
    except EngineFailed as error:
        return text, error
    raise AssertionError(f"it did not fail, but said {text!r}")


async def first_piece(pieces: AsyncGenerator[TextDelta | ToolCall, None]) -> str:
    piece = await anext(pieces)
    assert isinstance(piece, TextDelta)
    return piece.text
