"""Turns over a WebSocket: `{"content"}` in, the turn's events out as `{"id", "event", "data"}`.

One turn at a time; a message with `"policy": "interrupt"` takes the place of the one that runs,
and another one that comes while it waits for that is refused. Closing the socket cancels the turn
that runs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, WSMsgType, web

from agent_worker.api.bodies import MAX_BODY, content_of, parse_object, policy_of
from agent_worker.api.sessions import PREFIX, principal_of
from agent_worker.errors import AgentError, BadRequest, Draining, TurnBusy, UpgradeRequired
from agent_worker.runtime import TurnRequest
from agent_worker.runtime.events import DONE, ERROR, QUEUED, error_data, unlogged
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
        connection = _Connection(socket, request, self._turns, session_id, principal)
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
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        turns: Turns,
        session_id: str,
        principal: str,
    ) -> None:
        self._socket = socket
        self._request = request
        self._turns = turns
        self._session_id = session_id
        self._principal = principal
        self._running: set[asyncio.Task[object]] = set()
        #: Those of them whose end the client does not know yet.
        self._untold: set[asyncio.Task[object]] = set()
        #: Set unless an interruption waits for the turn in whose place it comes.
        self._has_taken_over = asyncio.Event()
        self._has_taken_over.set()
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
        """Raises TurnBusy: of one client, one turn runs and one waits at most."""
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
        opened = asyncio.Event()
        if request.policy == "interrupt":
            if not self._has_taken_over.is_set():
                raise TurnBusy
            self._has_taken_over = opened
        task = spawn_reporting(self._run_turn(request, opened), name="websocket turn")
        task.add_done_callback(lambda _: opened.set())
        for tasks in (self._running, self._untold):
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if request.policy == "enqueue":
            # One at a time, so that they wait in the order in which they were said.
            await opened.wait()

    async def _run_turn(self, request: TurnRequest, opened: asyncio.Event) -> None:
        began = False
        task = asyncio.current_task()

        async def emit(event: Event) -> None:
            if event.name in {DONE, ERROR}:
                self._untold.discard(task)
            await self._send_event(event)

        try:
            try:
                async with self._turns.open(request) as turn:
                    began = True
                    opened.set()
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
        except ConnectionError:
            # It left, or does not read; then it shall not take the turn for one that goes on.
            if not self._socket.closed and self._request.transport is not None:
                self._request.transport.abort()

    async def _send_event(self, event: Event) -> None:
        event_id = f'"{event.id}"' if event.id else "null"
        frame = f'{{"id":{event_id},"event":"{event.name}","data":{event.data}}}'
        await self._socket.send_str(frame)

    async def _send_error(self, error: AgentError) -> None:
        """An error outside of a turn; it has no id."""
        await self._send_event(unlogged(ERROR, error_data(error)))
