"""Turns over a WebSocket: one message in, the turn's events out as `{"id", "event", "data"}`.

    {"content": "...", "policy": "...", "idempotency_key": "...", "on_disconnect": "..."}
    {"cancel": true}

A socket starts and follows turns, but does not carry them: a turn writes its events to the log, and
the socket reads them from there. So a slow client blocks nothing, a turn outlives its socket, and a
client that connects with the id of its last event (`Last-Event-ID`, `?last_event_id=`) gets the
events after it, and then live ones.

One turn runs at a time. A message with `"policy": "interrupt"` replaces the running turn; another
message that arrives while it waits for that is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from agent_worker.api.bodies import MAX_BODY
from agent_worker.api.events import last_event_id_of
from agent_worker.api.sessions import PREFIX, principal_of
from agent_worker.api.socket_connection import SocketConnection, cancels_on_close
from agent_worker.errors import Draining, UpgradeRequired

if TYPE_CHECKING:
    from agent_worker.api.principals import Principals
    from agent_worker.metrics import Metrics
    from agent_worker.runtime import Tail, Turns
    from agent_worker.sessions import SessionStore

# Seconds. Detects clients that vanished; less than the idle timeout of any balancer.
_PING_INTERVAL_S = 30.0
# Seconds for the client's half of the closing handshake; a worker that stops waits no longer.
_CLOSE_TIMEOUT_S = 2.0


@dataclass(eq=False)
class WebSocketEndpoint:
    store: SessionStore
    turns: Turns
    tail: Tail
    principals: Principals
    metrics: Metrics
    _connections: set[SocketConnection] = field(default_factory=set, init=False)
    _is_draining: bool = field(default=False, init=False)

    def routes(self) -> list[web.RouteDef]:
        return [web.get(PREFIX + "/{session_id}/ws", self.connect, allow_head=False)]

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Errors before the handshake are HTTP responses; after it they are `error` events."""
        session_id = request.match_info["session_id"]
        principal = principal_of(request, self.principals)
        after = last_event_id_of(request)
        cancels = cancels_on_close(request.query.get("on_disconnect"), default=False)
        await self.store.check(session_id, principal)
        if self._is_draining:
            raise Draining
        socket = web.WebSocketResponse(
            heartbeat=_PING_INTERVAL_S, timeout=_CLOSE_TIMEOUT_S, max_msg_size=MAX_BODY
        )
        if not socket.can_prepare(request):
            raise UpgradeRequired
        await socket.prepare(request)
        connection = SocketConnection(
            socket,
            request,
            self.store,
            self.turns,
            self.tail,
            session_id,
            principal,
            after,
            cancels_turns=cancels,
        )
        self._connections.add(connection)
        self.metrics.active_sessions.inc()
        try:
            await connection.serve()
        finally:
            self.metrics.active_sessions.dec()
            self._connections.discard(connection)
        return socket

    async def drain(self) -> None:
        """Close idle sockets now, and the others after their turn."""
        self._is_draining = True
        await asyncio.gather(*(connection.drain() for connection in self._connections))

    async def wait_delivered(self) -> None:
        """Return once the clients have the end of each finished turn that was started here.

        A stalled client is not waited for: it resumes after its last id.
        """
        delivered = [connection.wait_delivered() for connection in self._connections]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.gather(*delivered)

    async def close_all(self) -> None:
        await asyncio.gather(*(connection.close() for connection in self._connections))
