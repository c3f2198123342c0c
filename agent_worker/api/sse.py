"""Server-sent events: their format, and a response that carries a turn's events.

The format is HTML Living Standard §9.2: lines `id:`, `event:`, `data:`, and an empty line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from agent_worker.sessions import Event


def encode_event(event: Event) -> bytes:
    """One event as bytes. JSON has no raw line breaks, so `data` is always one line."""
    line = f"id: {event.id}\n" if event.id else ""
    return f"{line}event: {event.name}\ndata: {event.data}\n\n".encode()


class EventStream:
    """A response of events. `prepare` sends its head; `send` is an `Emit`."""

    def __init__(self, request: web.Request, headers: dict[str, str]) -> None:
        self._request = request
        self._response = web.StreamResponse(
            headers={
                **headers,
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                # nginx and its kin would hold the events back otherwise.
                "X-Accel-Buffering": "no",
            }
        )

    async def prepare(self) -> None:
        await self._response.prepare(self._request)

    async def send(self, event: Event) -> None:
        """Raises ConnectionError when the client has left."""
        await self._response.write(encode_event(event))

    async def keep_alive(self) -> None:
        """A comment, for whatever ends connections that are silent."""
        await self._response.write(b": keep-alive\n\n")

    async def finish(self) -> web.StreamResponse:
        await self._response.write_eof()
        return self._response
