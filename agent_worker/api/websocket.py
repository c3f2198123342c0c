"""Turns over a WebSocket: a message in, the turn's events out as `{"id", "event", "data"}`.

    {"content": "...", "policy": "...", "idempotency_key": "...", "on_disconnect": "..."}
    {"cancel": true}

The socket starts turns and follows them, and does not carry them: a turn puts its events into the
log, and the socket gets them from there. So a client that reads slowly, or not at all, holds up
nothing; a turn goes on when its socket is lost; and whoever connects with the id of the last event
(`Last-Event-ID`, `?last_event_id=`) gets what came behind it, and then what comes.

One turn at a time; a message with `"policy": "interrupt"` takes the place of the one that runs,
and another one that comes while it waits for that is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web

from agent_worker.api.bodies import (
    MAX_BODY,
    content_of,
    parse_object,
    policy_of,
    told_idempotency_key,
)
from agent_worker.api.events import last_event_id_of
from agent_worker.api.sessions import PREFIX, principal_of
from agent_worker.api.socket_events import SocketEvents
from agent_worker.errors import (
    AgentError,
    BadRequest,
    Draining,
    LeaseLost,
    NoTurnRuns,
    TurnBusy,
    TurnInProgress,
    UpgradeRequired,
)
from agent_worker.runtime import ReplayedTurn, TurnRequest
from agent_worker.runtime.events import DONE, ERROR, QUEUED, error_data, unlogged
from agent_worker.sessions import Queued
from agent_worker.tasks import cancel_and_wait, spawn_reporting

if TYPE_CHECKING:
    from agent_worker.api.principals import Principals
    from agent_worker.metrics import Metrics
    from agent_worker.runtime import Tail, Turn, Turns
    from agent_worker.sessions import Event, SessionStore

# Finds clients that are gone without a word; below every balancer's idle timeout.
_PING_INTERVAL_S = 30.0
# For the client's half of the closing handshake; a worker that stops waits no longer.
_CLOSE_TIMEOUT_S = 2.0
# For a client to take a turn's last event; one that stalls comes back for it by its last id.
_END_TAKES_S = 30.0


class WebSocketEndpoint:
    def __init__(
        self,
        store: SessionStore,
        turns: Turns,
        tail: Tail,
        principals: Principals,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._turns = turns
        self._tail = tail
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
        after = last_event_id_of(request)
        cancels = _ends_with_us(request.query.get("on_disconnect"), default=False)
        await self._store.check(session_id, principal)
        if self._is_draining:
            raise Draining
        socket = web.WebSocketResponse(
            heartbeat=_PING_INTERVAL_S, timeout=_CLOSE_TIMEOUT_S, max_msg_size=MAX_BODY
        )
        if not socket.can_prepare(request):
            raise UpgradeRequired
        await socket.prepare(request)
        connection = _Connection(
            socket,
            request,
            self._store,
            self._turns,
            self._tail,
            _Session(session_id, principal),
            after,
            cancels_turns=cancels,
        )
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

    async def wait_told(self) -> None:
        """Return once the clients have the end of each turn that was started here and is over.

        A client that stalls is not waited for: it comes back for the rest by its last id.
        """
        told = [connection.wait_told() for connection in self._connections]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.gather(*told)

    async def close_all(self) -> None:
        """Close every socket now."""
        await asyncio.gather(*(connection.close() for connection in self._connections))


@dataclass(frozen=True, slots=True)
class _Session:
    id: str
    principal: str


class _Connection:
    """One client. Reading goes on while a turn runs, so that its close is seen at once.

    `after`: the last event that the client has of an earlier connection.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        store: SessionStore,
        turns: Turns,
        tail: Tail,
        session: _Session,
        after: str | None,
        *,
        cancels_turns: bool,
    ) -> None:
        self._socket = socket
        self._request = request
        self._store = store
        self._turns = turns
        self._session = session
        self._resumed_from = after
        self._cancels_turns = cancels_turns
        self._running: set[asyncio.Task[object]] = set()
        #: Those of them whose end the client does not know yet; and of these, in the order in which
        #: they began, those that have.
        self._untold: set[asyncio.Task[object]] = set()
        self._begun: deque[asyncio.Task[object]] = deque()
        #: Those that shall end with the socket.
        self._ours: set[asyncio.Task[object]] = set()
        #: Set unless an interruption waits for the turn in whose place it comes.
        self._has_taken_over = asyncio.Event()
        self._has_taken_over.set()
        self._is_draining = False
        self._events = SocketEvents(
            tail,
            session.id,
            session.principal,
            self._send_event,
            on_end=self._turn_was_told,
            is_hopeful=lambda: not self._running.isdisjoint(self._begun),
        )
        self._following: asyncio.Task[object] | None = None

    async def serve(self) -> None:
        if self._resumed_from is not None:
            self._events.want_rest(self._resumed_from)
            self._follow()
        try:
            async for message in self._socket:
                try:
                    if message.type is not WSMsgType.TEXT:
                        raise BadRequest("Messages must be JSON text.")
                    await self._take(parse_object(message.data))
                except AgentError as error:
                    await self._send_error(error)
        except ConnectionError:
            pass
        finally:
            following = [self._following] if self._following is not None else []
            await cancel_and_wait(*self._ours, *following)

    async def drain(self) -> None:
        self._is_draining = True
        if not self._running and self._following is None:
            await self.close()

    async def wait_told(self) -> None:
        """The events of a turn come from the log, so the last ones leave behind the turn's end."""
        while self._begun and self._following is not None:
            await asyncio.wait({self._following})

    async def close(self) -> None:
        await self._socket.close(code=WSCloseCode.GOING_AWAY, message=b"the worker is stopping")

    # What the client says.

    async def _take(self, body: dict[str, Any]) -> None:
        """Raises AgentError, of which the client is to be told."""
        if "cancel" not in body:
            await self._start_turn(body)
            return
        if body["cancel"] is not True or len(body) > 1:
            raise BadRequest('A message that cancels is {"cancel": true}.')
        stopping = await self._store.interrupt(self._session.id, self._session.principal)
        if stopping is None:
            raise NoTurnRuns

    async def _start_turn(self, body: dict[str, Any]) -> None:
        """Raises TurnBusy: of one client, one turn runs and one waits at most."""
        if self._is_draining:
            raise Draining
        request = TurnRequest(
            self._session.id,
            self._session.principal,
            content_of(body),
            told_idempotency_key(body),
            policy=policy_of(body),
        )
        is_ours = _ends_with_us(body.get("on_disconnect"), default=self._cancels_turns)
        if request.policy == "reject" and self._running:
            if not self._untold:
                # The client knows that they have ended: only the lease is still to be given back.
                await asyncio.wait(self._running)
            elif request.idempotency_key is None:
                raise TurnBusy
        opened = asyncio.Event()
        if request.policy == "interrupt":
            if not self._has_taken_over.is_set():
                raise TurnBusy
            self._has_taken_over = opened
        task = spawn_reporting(self._run_turn(request, opened), name="websocket turn")
        task.add_done_callback(lambda _: opened.set())
        for tasks in (self._running, self._untold, *([self._ours] if is_ours else [])):
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if request.policy == "enqueue" or request.idempotency_key is not None:
            # One at a time: so they wait in the order in which they were said, and none piles up.
            await opened.wait()

    # Its turns.

    async def _run_turn(self, request: TurnRequest, opened: asyncio.Event) -> None:
        began = False
        try:
            try:
                while not began:
                    try:
                        async with self._turns.open(request) as turn:
                            began = True
                            opened.set()
                            await self._serve_turn(turn)
                    except TurnInProgress:
                        opened.set()
                        began = await self._follow_running()
            except AgentError as error:
                # Once it began, its end is in the log, or the log can't be read.
                if not began:
                    await self._send_error(error)
            self._running.discard(_this_task())
            if self._is_draining:
                await self.drain()
        except ConnectionError:
            self._hang_up()

    async def _serve_turn(self, turn: Turn | ReplayedTurn | Queued) -> None:
        if isinstance(turn, Queued):
            await self._send_event(unlogged(QUEUED, {"waiting": turn.waiting}))
        elif isinstance(turn, ReplayedTurn):
            if self._resumed_from is not None and turn.is_behind(self._resumed_from):
                # A part of it was there before the connection was lost, and the rest has been
                # asked for with this one.
                self._resumed_from = None
            else:
                await turn.run(self._send_event)
        else:
            self._begun.append(_this_task())
            self._events.want_turn(turn.name)
            self._follow()
            await turn.run(self._turn_says)

    async def _turn_says(self, event: Event) -> None:
        """What is in the log comes from there; what is not is that the log cannot be written."""
        if event.id or event.name != ERROR:
            return
        if json.loads(event.data)["code"] == LeaseLost.code:
            # The turn goes on elsewhere.
            return
        if self._following is not None:
            await cancel_and_wait(self._following)
        await self._send_event(event)

    async def _follow_running(self) -> bool:
        """The message's turn runs already: the client gets what it lacks. False: it has ended."""
        self._resumed_from = None
        if self._following is not None:
            return True
        before = self._events.sent
        self._events.want_rest(self._events.last)
        await asyncio.wait({self._follow()})
        return self._events.sent > before

    def _follow(self) -> asyncio.Task[object]:
        """Send what is wanted of the log."""
        if self._following is None:
            self._following = spawn_reporting(self._send_log(), name="websocket events")
        return self._following

    async def _send_log(self) -> None:
        try:
            await self._events.run()
        except ConnectionError:
            self._hang_up()
        finally:
            self._following = None
        while self._begun:
            self._turn_was_told()
        if self._is_draining:
            await self.drain()

    def _turn_was_told(self) -> None:
        """The end of the first turn of ours that has begun, if it is one of ours."""
        if self._begun:
            self._untold.discard(self._begun.popleft())

    # What the client is told.

    async def _send_event(self, event: Event) -> None:
        event_id = f'"{event.id}"' if event.id else "null"
        frame = f'{{"id":{event_id},"event":"{event.name}","data":{event.data}}}'
        if event.name not in {DONE, ERROR}:
            await self._socket.send_str(frame)
            return
        try:
            async with asyncio.timeout(_END_TAKES_S):
                await self._socket.send_str(frame)
        except TimeoutError as error:
            raise ConnectionAbortedError("the client does not read") from error

    async def _send_error(self, error: AgentError) -> None:
        """An error outside of a turn; it has no id."""
        await self._send_event(unlogged(ERROR, error_data(error)))

    def _hang_up(self) -> None:
        """It left, or does not read; then it shall not take the turn for one that goes on."""
        if not self._socket.closed and self._request.transport is not None:
            self._request.transport.abort()


def _ends_with_us(given: Any, *, default: bool) -> bool:
    """Whether a turn ends when its socket is lost. Raises BadRequest."""
    if given is None:
        return default
    if given not in ("cancel", "continue"):
        raise BadRequest('"on_disconnect" must be "cancel" or "continue".')
    return bool(given == "cancel")


def _this_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task
