"""The demo's client against servers that answer as they should not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hermes_lb.demo.client import SESSIONS, Client
from hermes_lb.demo.failures import DemoFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

DONE = {"content": "A", "is_final": True}


class Heard:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def sent(self, method: str, path: str, *details: str) -> None:
        self.lines.append(f"> {method} {path} {' '.join(details)}".rstrip())

    def answered(self, status: int, worker: str | None, text: str = "") -> None:
        self.lines.append(f"< {status} {worker} {text}".rstrip())

    def token(self, text: str) -> None:
        self.lines.append(f"token {text!r}")

    def tool(self, name: str, arguments: dict[str, Any], result: str) -> None:
        self.lines.append(f"tool {name} {arguments} {result}")

    def ended(self) -> None:
        self.lines.append("ended")


def event(name: str, data: dict[str, Any]) -> bytes:
    return f"id: 1-1\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


def says(body: bytes, *, status: int = 200, content_type: str = "text/event-stream") -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        headers = {"X-Hermes-Worker": "agent1", "Content-Type": content_type}
        return web.Response(body=body, status=status, headers=headers)

    return handle


async def stream(handler: Handler, heard: Heard, **options: Any) -> Any:
    application = web.Application()
    application.router.add_post(f"{SESSIONS}/s/messages", handler)
    async with TestServer(application) as server, Client(str(server.make_url("/")), heard) as c:
        c.session_id = "s"
        return await c.stream("why?", **options)


async def test_a_stream_with_a_tool() -> None:
    heard = Heard()
    called = {"tool_call_id": "c1", "name": "clock"}
    body = b": a comment\n\n" + b"".join(
        (
            event("tool.started", {**called, "arguments": {"zone": "UTC"}}),
            event("tool.completed", {**called, "ok": True, "result": "12:00"}),
            event("message.delta", {"content": "A"}),
            event("done", DONE),
        )
    )
    turn = await stream(says(body), heard)
    assert (turn.worker, turn.answer, turn.tokens) == ("agent1", "A", ["A"])
    assert (turn.tools, turn.is_final) == (["clock"], True)
    assert heard.lines == [
        f'> POST {SESSIONS}/s/messages Accept: text/event-stream "why?"',
        "< 200 agent1 text/event-stream",
        "tool clock {'zone': 'UTC'} 12:00",
        "token 'A'",
        "ended",
    ]


async def test_something_is_done_once_in_the_middle_of_a_stream() -> None:
    heard = Heard()

    async def do() -> None:
        heard.lines.append("done once")

    deltas = [event("message.delta", {"content": text}) for text in "ABC"]
    notice = event("tool.started", {"tool_call_id": "c1", "arguments": {}})
    body = b"".join((*deltas[:2], notice, deltas[2], event("done", DONE)))
    await stream(says(body), heard, after=2, do=do)
    assert heard.lines[2:] == ["token 'A'", "token 'B'", "done once", "token 'C'", "ended"]


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (says(b"no\n server", status=503), "POST .*/s/messages: expected 200, got 503 no server"),
        (says(event("message.delta", {"content": "A"})), "ended without its last event, `done`"),
        (says(event("error", {"message": "no model"})), "ended with an error: no model"),
    ],
)
async def test_a_stream_that_fails_says_why_and_who(handler: Handler, why: str) -> None:
    with pytest.raises(DemoFailed, match=why) as caught:
        await stream(handler, Heard())
    assert caught.value.culprit == "agent1"


async def test_a_stream_that_is_cut() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(event("message.delta", {"content": "A"}))
        assert request.transport is not None
        request.transport.abort()
        return response

    heard = Heard()
    with pytest.raises(DemoFailed, match=r"POST /api/agent/sessions/s/messages: \w"):
        await stream(cut, heard)


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff"])
async def test_an_answer_that_is_no_object(body: bytes) -> None:
    application = web.Application()
    application.router.add_post(SESSIONS, says(body, status=201, content_type="application/json"))
    async with TestServer(application) as server, Client(str(server.make_url("/")), Heard()) as c:
        with pytest.raises(DemoFailed, match=f"^POST {SESSIONS}: "):
            await c.create()


async def test_nobody_listens() -> None:
    async with Client("http://127.0.0.1:1", Heard()) as client:
        with pytest.raises(DemoFailed, match=f"^POST {SESSIONS}: .*127.0.0.1:1"):
            await client.create()
        assert client.worker is None
