"""Turns over a WebSocket: `{"content"}` in, the turn's events out as `{"id", "event", "data"}`.

One turn at a time; a message with `"policy": "interrupt"` takes the place of the one that runs.
Closing the socket cancels the turn that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, WSMsgType, web

from agent_worker.api.bodies import MAX_BODY, content_of, parse_object, policy_of
from agent_worker.api.sessions import PREFIX, principal_of
from agent_worker.errors import AgentError, BadRequest, Draining, TurnBusy, UpgradeRequired
from agent_worker.runtime import TurnRequest
from agent_worker.runtime.events import DONE, ERROR, QUEUED, unlogged
from agent_worker.sessions import Queued
from agent_worker.tasks import cancel_and_wait, spawn_reporting

if TYPE_CHECKING:
    from agent_worker.api.principals import Principals
    from agent_worker.metrics import Metrics
    from agent_worker.runtime import Turns
    from agent_worker.sessions import Event, SessionStore

# Finds clients that are gone without a word; below every balancer's idle timeout.
_PING_INTERVAL_S = 30.0
# For the client's half of the closing handshake; a worker that stops waits no longer.
_CLOSE_TIMEOUT_S = 2.0


class WebSocketEndpoint:
    def __init__(
        self, store: SessionStore, turns: Turns, principals: Principals, metrics: Metrics
    ) -> None:
        self._store = store
        self._turns = turns
        self._principals = principals
        self._metrics = metrics
        self._connections: set[_Connection] = set()
        self._is_draining = False

    def routes(self) -> list[web.RouteDef]:
        return [web.get(PREFIX + "/{session_id}/ws", self.connect, allow_head=False)]

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Errors before the handshake are plain HTTP; after it they are `error` events."""
        session_id = request.match_info["session_id"]
        principal = principal_of(request, self._principals)
        await self._store.check(session_id, principal)
        if self._is_draining:
            raise Draining
        socket = web.WebSocketResponse(
            heartbeat=_PING_INTERVAL_S, timeout=_CLOSE_TIMEOUT_S, max_msg_size=MAX_BODY
        )
        if not socket.can_prepare(request):
            raise UpgradeRequired
        await socket.prepare(request)
        connection = _Connection(socket, self._turns, session_id, principal)
        self._connections.add(connection)
        self._metrics.active_sessions.inc()
        try:
            await connection.serve()
        finally:
            self._metrics.active_sessions.dec()
            self._connections.discard(connection)
        return socket

    async def drain(self) -> None:
        """Close the sockets: idle ones now, the others after the turn that they run."""
        self._is_draining = True
        await asyncio.gather(*(connection.drain() for connection in self._connections))

    async def close_all(self) -> None:
        """Close every socket now."""
        await asyncio.gather(*(connection.close() for connection in self._connections))


class _Connection:
    """One client. Reading goes on while a turn runs, so that its close is seen at once."""

    def __init__(
        self, socket: web.WebSocketResponse, turns: Turns, session_id: str, principal: str
    ) -> None:
        self._socket = socket
        self._turns = turns
        self._session_id = session_id
        self._principal = principal
        self._running: set[asyncio.Task[object]] = set()
        #: Those of them whose end the client does not know yet.
        self._untold: set[asyncio.Task[object]] = set()
        self._is_draining = False

    async def serve(self) -> None:
        try:
            async for message in self._socket:
                try:
                    if message.type is not WSMsgType.TEXT:
                        raise BadRequest("Messages must be JSON text.")
                    await self._start_turn(parse_object(message.data))
                except AgentError as error:
                    await self._send_error(error)
        except ConnectionError:
            pass
        finally:
            await cancel_and_wait(*self._running)

    async def drain(self) -> None:
        self._is_draining = True
        if not self._running:
            await self.close()

    async def close(self) -> None:
        await self._socket.close(code=WSCloseCode.GOING_AWAY, message=b"the worker is stopping")

    async def _start_turn(self, body: dict[str, object]) -> None:
        if self._is_draining:
            raise Draining
        request = TurnRequest(
            self._session_id, self._principal, content_of(body), policy=policy_of(body)
        )
        if request.policy == "reject" and self._running:
            if self._untold:
                raise TurnBusy
            # The client knows that they have ended: only the lease is still to be given back.
            await asyncio.wait(self._running)
        task = spawn_reporting(self._run_turn(request), name="websocket turn")
        for tasks in (self._running, self._untold):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _run_turn(self, request: TurnRequest) -> None:
        began = False
        task = asyncio.current_task()

        async def emit(event: Event) -> None:
            if event.name in {DONE, ERROR}:
                self._untold.discard(task)
            await self._send_event(event)

        with contextlib.suppress(ConnectionError):
            try:
                async with self._turns.open(request) as turn:
                    began = True
                    if isinstance(turn, Queued):
                        await self._send_event(unlogged(QUEUED, {"waiting": turn.waiting}))
                    else:
                        await turn.run(emit)
            except AgentError as error:
                # Once it began, the turn itself has told the client.
                if not began:
                    await self._send_error(error)
            if self._is_draining:
                await self.close()

    async def _send_event(self, event: Event) -> None:
        event_id = f'"{event.id}"' if event.id else "null"
        frame = f'{{"id":{event_id},"event":"{event.name}","data":{event.data}}}'
        await self._socket.send_str(frame)

    async def _send_error(self, error: AgentError) -> None:
        """An error outside of a turn; it has no id."""
        await self._send_event(unlogged(ERROR, {"code": error.code, "message": str(error)}))
