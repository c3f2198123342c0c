"""Server-sent events: their format, and a response that streams a turn's events.

The format is HTML Living Standard §9.2: lines `id:`, `event:`, `data:`, and an empty line.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from agent_worker.errors import AgentError

if TYPE_CHECKING:
    from agent_worker.runtime import ReplayedTurn, Turn
    from agent_worker.sessions import Event


def encode_event(event: Event) -> bytes:
    """One event as bytes. JSON has no raw line breaks, so `data` is one line."""
    line = f"id: {event.id}\n" if event.id else ""
    return f"{line}event: {event.name}\ndata: {event.data}\n\n".encode()


class EventStream:
    """A response. `prepare` sends its head; `send` is an `Emit`."""

    def __init__(self, request: web.Request, headers: dict[str, str]) -> None:
        self._request = request
        self._response = web.StreamResponse(
            headers={
                **headers,
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                # Otherwise nginx and others buffer the events.
                "X-Accel-Buffering": "no",
            }
        )

    async def prepare(self) -> None:
        await self._response.prepare(self._request)

    async def send(self, event: Event) -> None:
        """Raises ConnectionError when the client has left."""
        await self._response.write(encode_event(event))

    async def run(self, turn: Turn | ReplayedTurn) -> web.StreamResponse:
        """The whole response: the events of `turn`, whose last one is its error, if it fails."""
        await self.prepare()
        with contextlib.suppress(AgentError):
            await turn.run(self.send)
        return await self.finish()

    async def keep_alive(self) -> None:
        """Send a comment, against idle timeouts on the way."""
        await self._response.write(b": keep-alive\n\n")

    async def finish(self) -> web.StreamResponse:
        await self._response.write_eof()
        return self._response
