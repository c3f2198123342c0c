"""One WebSocket client of a session: its messages, its turns, its events."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web

from agent_worker.api.bodies import content_of, idempotency_key_in, parse_object, policy_of
from agent_worker.api.socket_events import SocketEvents
from agent_worker.errors import (
    AgentError,
    BadRequest,
    Draining,
    LeaseLost,
    NoTurnRuns,
    TurnBusy,
    TurnInProgress,
)
from agent_worker.runtime import ReplayedTurn, TurnRequest
from agent_worker.runtime.events import DONE, ERROR, QUEUED, error_event, unlogged
from agent_worker.sessions import Queued
from agent_worker.tasks import cancel_and_wait, spawn_reporting, this_task

if TYPE_CHECKING:
    from agent_worker.runtime import Tail, Turn, Turns
    from agent_worker.sessions import Event, SessionStore

# Seconds for a client to take a turn's last event; a stalled one resumes after its last id.
_END_TAKES_S = 30.0


@dataclass(eq=False)
class SocketConnection:
    """One client. It is read from while a turn runs, so that its close is noticed at once.

    `resumed_from`: the last event that the client got on an earlier connection.
    """

    socket: web.WebSocketResponse
    request: web.Request
    store: SessionStore
    turns: Turns
    tail: Tail
    session_id: str
    principal: str
    resumed_from: str | None
    cancels_turns: bool
    #: Tasks of turns; of these, those whose end the client does not have; and of these again, in
    #: order, those that have begun.
    _running: set[asyncio.Task[object]] = field(default_factory=set, init=False)
    _undelivered: set[asyncio.Task[object]] = field(default_factory=set, init=False)
    _begun: deque[asyncio.Task[object]] = field(default_factory=deque, init=False)
    #: Tasks of turns that are cancelled when the socket is lost.
    _cancelled_on_close: set[asyncio.Task[object]] = field(default_factory=set, init=False)
    _is_draining: bool = field(default=False, init=False)
    _following: asyncio.Task[object] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        #: Set unless an interruption waits for the running turn to end.
        self._has_interrupted = asyncio.Event()
        self._has_interrupted.set()
        self._events = SocketEvents(
            self.tail,
            self.session_id,
            self.principal,
            self._send_event,
            on_end=self._turn_was_delivered,
            waits_for_store=lambda: not self._running.isdisjoint(self._begun),
        )

    async def serve(self) -> None:
        if self.resumed_from is not None:
            self._events.want_rest(self.resumed_from)
            self._follow()
        try:
            async for message in self.socket:
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
            await cancel_and_wait(*self._cancelled_on_close, *following)

    async def drain(self) -> None:
        self._is_draining = True
        if not self._running and self._following is None:
            await self.close()

    async def wait_delivered(self) -> None:
        """Events are read from the log, so the last ones are sent after the turn has ended."""
        while self._begun and self._following is not None:
            await asyncio.wait({self._following})

    async def close(self) -> None:
        await self.socket.close(code=WSCloseCode.GOING_AWAY, message=b"the worker is stopping")

    # Messages of the client.

    async def _take(self, body: dict[str, Any]) -> None:
        """Raises AgentError, which is sent to the client."""
        if "cancel" not in body:
            await self._start_turn(body)
            return
        if body["cancel"] is not True or len(body) > 1:
            raise BadRequest('A message that cancels is {"cancel": true}.')
        stopping = await self.store.interrupt(self.session_id, self.principal)
        if stopping is None:
            raise NoTurnRuns

    async def _start_turn(self, body: dict[str, Any]) -> None:
        """Raises TurnBusy: a client has at most one turn running and one waiting."""
        if self._is_draining:
            raise Draining
        request = TurnRequest(
            self.session_id,
            self.principal,
            content_of(body),
            idempotency_key_in(body),
            policy=policy_of(body),
        )
        is_cancelled = cancels_on_close(body.get("on_disconnect"), default=self.cancels_turns)
        if request.policy == "reject" and self._running:
            if not self._undelivered:
                # The client has their ends: they are only freeing the lease.
                await asyncio.wait(self._running)
            elif request.idempotency_key is None:
                raise TurnBusy
        opened = asyncio.Event()
        if request.policy == "interrupt":
            if not self._has_interrupted.is_set():
                raise TurnBusy
            self._has_interrupted = opened
        task = spawn_reporting(self._run_turn(request, opened), name="websocket turn")
        task.add_done_callback(lambda _: opened.set())
        owners = [self._running, self._undelivered]
        if is_cancelled:
            owners.append(self._cancelled_on_close)
        for tasks in owners:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if request.policy == "enqueue" or request.idempotency_key is not None:
            # One at a time: they are queued in order, and do not pile up here.
            await opened.wait()

    # Turns.

    async def _run_turn(self, request: TurnRequest, opened: asyncio.Event) -> None:
        began = False
        try:
            try:
                while not began:
                    try:
                        async with self.turns.open(request) as turn:
                            began = True
                            opened.set()
                            await self._serve_turn(turn)
                    except TurnInProgress:
                        opened.set()
                        began = await self._follow_running()
            except AgentError as error:
                # The end of a turn that has begun is in the log.
                if not began:
                    await self._send_error(error)
            self._running.discard(this_task())
            if self._is_draining:
                await self.drain()
        except ConnectionError:
            self._hang_up()

    async def _serve_turn(self, turn: Turn | ReplayedTurn | Queued) -> None:
        if isinstance(turn, Queued):
            await self._send_event(unlogged(QUEUED, {"waiting": turn.waiting}))
        elif isinstance(turn, ReplayedTurn):
            if self.resumed_from is not None and turn.is_behind(self.resumed_from):
                # The client got a part of it on the lost connection, and is sent the rest.
                self.resumed_from = None
            else:
                await turn.run(self._send_event)
        else:
            self._begun.append(this_task())
            self._events.want_turn(turn.name)
            self._follow()
            await turn.run(self._on_turn_event)

    async def _on_turn_event(self, event: Event) -> None:
        """Events are read from the log, except an error that the log cannot be written."""
        if event.id or event.name != ERROR:
            return
        if json.loads(event.data)["code"] == LeaseLost.code:
            # The turn continues on another worker.
            return
        if self._following is not None:
            await cancel_and_wait(self._following)
        await self._send_event(event)

    async def _follow_running(self) -> bool:
        """The message's turn is running: send what the client lacks. False: it has ended."""
        self.resumed_from = None
        if self._following is not None:
            return True
        before = self._events.sent
        self._events.want_rest(self._events.last)
        await asyncio.wait({self._follow()})
        return self._events.sent > before

    def _follow(self) -> asyncio.Task[object]:
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
            self._turn_was_delivered()
        if self._is_draining:
            await self.drain()

    def _turn_was_delivered(self) -> None:
        """The client has the end of a turn: of the first one that began here, if there is one."""
        if self._begun:
            self._undelivered.discard(self._begun.popleft())

    # To the client.

    async def _send_event(self, event: Event) -> None:
        event_id = f'"{event.id}"' if event.id else "null"
        frame = f'{{"id":{event_id},"event":"{event.name}","data":{event.data}}}'
        if event.name not in {DONE, ERROR}:
            await self.socket.send_str(frame)
            return
        try:
            async with asyncio.timeout(_END_TAKES_S):
                await self.socket.send_str(frame)
        except TimeoutError as error:
            raise ConnectionAbortedError("the client does not read") from error

    async def _send_error(self, error: AgentError) -> None:
        """An error outside of a turn; it has no id."""
        await self._send_event(error_event(error))

    def _hang_up(self) -> None:
        """Reset the connection: a client that does not read must not wait for its turn."""
        if not self.socket.closed and self.request.transport is not None:
            self.request.transport.abort()


def cancels_on_close(given: Any, *, default: bool) -> bool:
    """Whether a turn is cancelled when its socket is lost. Raises BadRequest."""
    if given is None:
        return default
    if given not in ("cancel", "continue"):
        raise BadRequest('"on_disconnect" must be "cancel" or "continue".')
    return bool(given == "cancel")
