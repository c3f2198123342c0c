"""A client of the sessions API, through the balancer, with a cookie jar.

Each call reports requests and responses to a `Listener` as they happen.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import aiohttp

from hermes_lb.demo.failures import DemoFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import SimpleNamespace

SESSIONS = "/api/agent/sessions"
WORKER_HEADER = "X-Hermes-Worker"

_TIMEOUT = aiohttp.ClientTimeout(total=30.0)
_MAX_QUOTED = 200  # characters of an unexpected answer


class Listener(Protocol):
    """Is notified of requests and responses."""

    def sent(self, method: str, path: str, *details: str) -> None: ...

    def answered(self, status: int, worker: str | None, text: str = "") -> None: ...

    def token(self, text: str) -> None: ...

    def tool(self, name: str, arguments: dict[str, Any], result: str) -> None: ...

    def ended(self) -> None: ...


@dataclass(slots=True)
class Turn:
    """One turn, as the client saw it."""

    question: str
    worker: str | None
    answer: str = ""
    #: Pieces of the answer, and when each arrived (seconds of a monotonic clock).
    tokens: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    is_final: bool = False

    @property
    def seconds(self) -> float:
        """From the first token to the last."""
        return self.times[-1] - self.times[0] if self.times else 0.0


class Client:
    """`async with Client(...) as client:`; calls raise DemoFailed on failure."""

    def __init__(self, url: str, listener: Listener) -> None:
        self.session_id = ""
        self.worker: str | None = None  # that served the last request
        self._listener = listener
        tracing = aiohttp.TraceConfig()
        tracing.on_request_end.append(self._note_worker)
        self._http = aiohttp.ClientSession(
            url,
            # By default aiohttp keeps no cookies for IP addresses.
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            timeout=_TIMEOUT,
            trace_configs=[tracing],
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    def cookie(self, name: str) -> str | None:
        """Its value in the jar."""
        return next((c.value for c in self._http.cookie_jar if c.key == name), None)

    async def create(self) -> str:
        """Create the session for all other calls -> its id."""
        self._listener.sent("POST", SESSIONS)
        created = await self._json("POST", SESSIONS, expect=201)
        self.session_id = str(created.get("session_id", ""))
        self._listener.answered(201, self.worker, f"session {self.session_id}")
        return self.session_id

    async def ask(self, question: str) -> Turn:
        """A turn, answered as JSON."""
        path = f"{self._path}/messages"
        self._listener.sent("POST", path, _quoted(question))
        body = await self._json("POST", path, expect=200, json={"content": question})
        turn = Turn(question, self.worker, str(body.get("content")))
        turn.is_final = body.get("is_final") is True
        self._listener.answered(200, self.worker, _quoted(turn.answer))
        return turn

    async def stream(
        self, question: str, *, after: int = 0, do: Callable[[], Awaitable[None]] | None = None
    ) -> Turn:
        """A turn, answered as server-sent events; `do` is awaited once, after `after` tokens."""
        path = f"{self._path}/messages"
        headers = {"Accept": "text/event-stream"}
        self._listener.sent("POST", path, "Accept: text/event-stream", _quoted(question))
        try:
            async with self._http.post(
                path, json={"content": question}, headers=headers
            ) as response:
                await self._expect(200, response)
                self._listener.answered(200, self.worker, response.content_type)
                events = _Events(Turn(question, self.worker), self._listener)
                async for name, data, _ in server_sent_events(response.content):
                    events.take(name, data)
                    if do is not None and len(events.turn.tokens) == after:
                        await do()
                        do = None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._lost("POST", path, error) from error
        return self._finished(events, path)

    async def talk(self, question: str) -> Turn:
        """A turn over a WebSocket of its own."""
        path = f"{self._path}/ws"
        self._listener.sent("GET", path, "Upgrade: websocket")
        try:
            async with self._http.ws_connect(path, receive_timeout=_TIMEOUT.total) as socket:
                self._listener.answered(101, self.worker)
                await socket.send_json({"content": question})
                self._listener.sent("frame", json.dumps({"content": question}))
                events = _Events(Turn(question, self.worker), self._listener)
                async for message in socket:
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        break
                    frame = json.loads(message.data)
                    events.take(frame["event"], frame["data"])
                    if events.are_over:
                        break
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._lost("GET", path, error) from error
        return self._finished(events, path)

    async def read(self) -> dict[str, Any]:
        """The session as stored."""
        self._listener.sent("GET", self._path)
        session = await self._json("GET", self._path, expect=200)
        count = len(session.get("messages", ()))
        self._listener.answered(200, self.worker, f"{count} messages")
        return session

    @property
    def _path(self) -> str:
        return f"{SESSIONS}/{self.session_id}"

    async def _note_worker(
        self,
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        end: aiohttp.TraceRequestEndParams,
    ) -> None:
        # Also gives access to the headers of a WebSocket handshake.
        self.worker = end.response.headers.get(WORKER_HEADER)

    async def _json(
        self, method: str, path: str, *, expect: int, json: object = None
    ) -> dict[str, Any]:
        try:
            async with self._http.request(method, path, json=json) as response:
                await self._expect(expect, response)
                body = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._lost(method, path, error) from error
        if not isinstance(body, dict):
            raise self._failure(f"{method} {path}: expected a JSON object, got {body!r}")
        return body

    async def _expect(self, status: int, response: aiohttp.ClientResponse) -> None:
        if response.status != status:
            text = " ".join((await response.text(errors="replace")).split())[:_MAX_QUOTED]
            raise self._failure(
                f"{response.method} {response.url.path}: expected {status}, "
                f"got {response.status} {text}"
            )

    def _finished(self, events: _Events, path: str) -> Turn:
        self._listener.ended()
        if events.error is not None:
            raise self._failure(f"{path}: the turn ended with an error: {events.error}")
        if not events.are_over:
            raise self._failure(f"{path}: the stream ended without its last event, `done`")
        return events.turn

    def _lost(self, method: str, path: str, error: Exception) -> DemoFailed:
        return self._failure(f"{method} {path}: {str(error) or type(error).__name__}")

    def _failure(self, message: str) -> DemoFailed:
        return DemoFailed(message, culprit=self.worker)


class _Events:
    """Collects the events of one turn; they are the same over SSE and WebSocket."""

    def __init__(self, turn: Turn, listener: Listener) -> None:
        self.turn = turn
        self.error: str | None = None
        self.are_over = False
        self._listener = listener
        self._arguments: dict[str, dict[str, Any]] = {}

    def take(self, name: str, data: dict[str, Any]) -> None:
        match name:
            case "message.delta":
                self.turn.tokens.append(data["content"])
                self.turn.times.append(time.monotonic())
                self._listener.token(data["content"])
            case "tool.started":
                self._arguments[data["tool_call_id"]] = data["arguments"]
            case "tool.completed":
                arguments = self._arguments.get(data["tool_call_id"], {})
                self.turn.tools.append(data["name"])
                self._listener.tool(data["name"], arguments, data["result"])
            case "error":
                self.error = str(data.get("message"))
                self.are_over = True
            case "done":
                self.turn.answer = data["content"]
                self.turn.is_final = data["is_final"] is True
                self.are_over = True


async def server_sent_events(
    content: aiohttp.StreamReader,
) -> AsyncIterator[tuple[str, dict[str, Any], str]]:
    """(event, data, last event ID) of each event, by HTML Living Standard section 9.2.6, for JSON
    data."""
    name, data, last_id = "message", "", ""
    async for raw in content:
        line = raw.decode().rstrip("\r\n")
        field_name, _, value = line.partition(":")
        if field_name == "event":
            name = value.removeprefix(" ")
        elif field_name == "data":
            data += value.removeprefix(" ")
        elif field_name == "id":
            last_id = value.removeprefix(" ")
        elif not line and data:
            yield name, json.loads(data), last_id
            name, data = "message", ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
