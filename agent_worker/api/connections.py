"""The connections of a server while it stops: none is cut off, and none is kept for more.

aiohttp's own `pre_shutdown` makes every connection deaf: bodies that are on their way and the pongs
of WebSockets are lost then, and idle connections stay open. So it comes only after the drain.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Connections:
    """Knows which connections serve a request. `middleware` is the outermost one."""

    def __init__(self) -> None:
        #: One serves one request at a time.
        self._serving: set[asyncio.BaseProtocol] = set()
        #: Those of them whose answer has not begun.
        self._unanswered: set[asyncio.BaseProtocol] = set()
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._is_draining = False

    def __repr__(self) -> str:
        return f"Connections({len(self._serving)} serve, {len(self._unanswered)} unanswered)"

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        self._serving.add(connection)
        self._unanswered.add(connection)
        self._all_answered.clear()
        try:
            response = await handler(request)
            if self._is_draining:
                # What has begun before the drain could not say so in its head.
                response.force_close()
            return response
        finally:
            self._serving.discard(connection)
            self._has_answered(connection)

    async def on_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """An `on_response_prepare` handler."""
        self._has_answered(request.protocol)
        if self._is_draining and not isinstance(response, web.WebSocketResponse):
            # aiohttp has chosen this header before it asks.
            response.headers["Connection"] = "close"
            response.force_close()

    async def drain(self, server: web.Server) -> None:
        """Close the idle connections now, and each of the others behind its answer.

        Call it when the server accepts no more.
        """
        self._is_draining = True
        # What has been read goes to its handler within two rounds of the loop.
        for _ in range(2):
            await asyncio.sleep(0)
        for connection in server.connections:
            if connection not in self._serving:
                connection.force_close()

    @property
    def are_answered(self) -> bool:
        """Whether no request waits for its answer to begin."""
        return not self._unanswered

    async def wait_answered(self) -> None:
        """Return once they are."""
        await self._all_answered.wait()

    def _has_answered(self, connection: asyncio.BaseProtocol) -> None:
        self._unanswered.discard(connection)
        if not self._unanswered:
            self._all_answered.set()
