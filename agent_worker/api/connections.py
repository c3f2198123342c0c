"""Graceful close of a server's connections: each after its response, idle ones at once.

aiohttp's own `pre_shutdown` stops reading from every connection: request bodies in transit and the
pongs of WebSockets are lost, and idle connections stay open. So it is called after the drain only.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from agent_worker.api.errors import Handler


class Connections:
    """The connections that serve a request. `middleware` is the outermost one."""

    def __init__(self) -> None:
        #: A connection serves one request at a time.
        self._serving: set[asyncio.BaseProtocol] = set()
        #: Those of them whose response has not begun.
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
                # A response that began before the drain has no `Connection: close`.
                response.force_close()
            return response
        finally:
            self._serving.discard(connection)
            self._has_answered(connection)

    async def on_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """An `on_response_prepare` handler."""
        self._has_answered(request.protocol)
        if self._is_draining and not isinstance(response, web.WebSocketResponse):
            # aiohttp sets this header before it calls the handler.
            response.headers["Connection"] = "close"
            response.force_close()

    async def drain(self, server: web.Server) -> None:
        """Close idle connections now, and each of the others after its response.

        Call it when the server accepts no more connections.
        """
        self._is_draining = True
        # A request that has been read reaches its handler within two iterations of the loop.
        for _ in range(2):
            await asyncio.sleep(0)
        for connection in server.connections:
            if connection not in self._serving:
                connection.force_close()

    @property
    def are_answered(self) -> bool:
        """Whether no request waits for its response to begin."""
        return not self._unanswered

    async def wait_answered(self) -> None:
        """Return once they are."""
        await self._all_answered.wait()

    def _has_answered(self, connection: asyncio.BaseProtocol) -> None:
        self._unanswered.discard(connection)
        if not self._unanswered:
            self._all_answered.set()
