"""All turns of a worker: opens them, serves queued messages, and ends them.

    open     begin      the lease is held and the user's message is in the history
                        (`take_over`: another worker has begun the turn)
    run      step...    finished steps are committed; the last commit frees the lease
    close    release    only if the turn was not finished (cancelled, failed, lost)

A message that arrives while a turn runs is rejected, queued (`enqueue`), or interrupts it
(`interrupt`). The queued messages open the next turn together, whichever worker begins it: the one
whose turn has ended, or the one that has queued the message if that worker died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING

from agent_worker.errors import AgentError, Draining, StoreUnavailable, TurnBusy
from agent_worker.runtime.admission import Admission, TurnRequest
from agent_worker.runtime.conversation import Conversation
from agent_worker.runtime.events import discard
from agent_worker.runtime.holders import worker_channel
from agent_worker.runtime.open_turns import OpenTurns
from agent_worker.runtime.replay import ReplayedTurn
from agent_worker.runtime.turn import Turn
from agent_worker.sessions import Grant, Nothing, NotTaken, Queued
from agent_worker.sessions.event_log import channel
from agent_worker.tasks import spawn_reporting, uncancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from agent_worker.metrics import Metrics
    from agent_worker.runtime.admission import Attempt, Taken
    from agent_worker.runtime.holders import Holders
    from agent_worker.runtime.loop import AgentLoop
    from agent_worker.runtime.notifier import Notifier
    from agent_worker.sessions import SessionStore

log = logging.getLogger(__name__)

# Seconds over which a drain spreads the handovers: all at once, the other workers would take them
# over in one burst, and each stream would wait for the whole of it. Less than health checks need
# to find that the port is closed, because that moves the rest at once.
_HANDOVER_S = 0.5

# Seconds between two reads while a turn runs: its end may be notified, or not.
_LOOK_S = 2.0


class Turns:
    """`window` is the model's context window in tokens. Call `start` before the first turn.

    `converse` makes the conversation of a grant. Turns with a `parent` are counted and cancelled
    with its turns.
    """

    def __init__(
        self,
        store: SessionStore,
        loop: AgentLoop,
        notifier: Notifier,
        holders: Holders,
        metrics: Metrics,
        *,
        window: int,
        has_archive: bool = False,
        converse: Callable[[Grant, int], Conversation] = Conversation,
        parent: Turns | None = None,
    ) -> None:
        self._store = store
        self._loop = loop
        self._notifier = notifier
        self.holders = holders
        self._metrics = metrics
        self._window = window
        self._has_archive = has_archive
        self._converse = converse
        #: Names this worker in its leases.
        self.name: str = parent.name if parent is not None else secrets.token_hex(8)
        self._admission = Admission(self.name, store, notifier, holders, loop.tool_calls.large)
        self._open: OpenTurns = OpenTurns(parent._open if parent is not None else None)
        #: By lease.
        self._running: dict[str, Turn] = {}
        #: By session: the tasks that serve its queued messages.
        self._inboxes: dict[str, asyncio.Task[object]] = {}
        self._is_stopping = False
        #: Whether the worker shuts down: turns that others can continue are handed over.
        self.is_leaving = False
        self._handing_over: asyncio.Task[object] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def __repr__(self) -> str:
        return f"Turns({len(self)} open)"

    async def start(self) -> None:
        """Subscribe to interruptions."""
        await self._notifier.subscribe(worker_channel(self.name), self._stop_turn)

    @contextlib.asynccontextmanager
    async def open(self, request: TurnRequest) -> AsyncIterator[Turn | ReplayedTurn | Queued]:
        """Begin a turn. Raises what `SessionStore.begin` refuses, before any output.

        Leaving the block frees the lease in any case.
        """
        with self._open.current():
            if request.content is None:
                # The look that `serve_inbox` asked for.
                self._open.discard(request.session_id)
            async with self._admission.attempt(request) as attempt:
                taken = await self._admission.begin(attempt)
                if isinstance(taken.answer, Grant):
                    async with self._leased(attempt, taken) as turn:
                        yield turn
                    return
                attempt.is_over = True
                if isinstance(taken.answer, Queued):
                    self.serve_inbox(request.session_id, request.principal)
                    yield taken.answer
                elif isinstance(taken.answer, Nothing):
                    raise _InboxEmpty
                else:
                    self._metrics.turns.labels("replayed").inc()
                    messages = await self._loop.tool_calls.large.restore(taken.answer.messages)
                    yield ReplayedTurn(taken.answer, messages)

    @contextlib.asynccontextmanager
    async def take_over(self, request: TurnRequest, turn: str) -> AsyncIterator[Turn | NotTaken]:
        """Continue a turn whose worker died (`SessionStore.take_over`). Leaving is as in `open`.

        Raises Draining.
        """
        with self._open.current():
            if self.is_leaving:
                raise Draining
            async with self._admission.attempt(request) as attempt:
                taken = await self._admission.take_over(attempt, turn)
                if isinstance(taken.answer, NotTaken):
                    yield taken.answer
                else:
                    async with self._leased(attempt, taken) as running:
                        yield running

    def serve_inbox(self, session_id: str, principal: str) -> None:
        """Look for queued messages of the session, and run them; a drain waits for the look."""
        if self._is_stopping:
            return
        self._open.add(session_id)
        if session_id in self._inboxes:
            return

        def end(_: object) -> None:
            del self._inboxes[session_id]
            if session_id in self._open:
                # Called again since the last look.
                self._open.discard(session_id)
                self.serve_inbox(session_id, principal)

        task = spawn_reporting(self._serve_inbox(session_id, principal), name="inbox")
        self._inboxes[session_id] = task
        task.add_done_callback(end)

    def hand_over(self) -> None:
        """End the turns that other workers can continue (`Turn.hand_over`), also those to come.

        Those that run are handed over one after another, within half a second.
        """
        if not self.is_leaving:
            self.is_leaving = True
            self._handing_over = spawn_reporting(self._hand_over(), name="handover")

    async def _hand_over(self) -> None:
        running = tuple(self._running.values())
        for turn in running:
            turn.hand_over()
            await asyncio.sleep(_HANDOVER_S / len(running))

    @contextlib.contextmanager
    def registered(self, turn: Turn) -> Iterator[None]:
        """Inside the block the turn can be interrupted and handed over."""
        if self.is_leaving:
            turn.hand_over()
        self._running[turn.lease_value] = turn
        try:
            yield
        finally:
            del self._running[turn.lease_value]

    @contextlib.contextmanager
    def sessionless(self) -> Iterator[None]:
        """Inside the block a turn without a session is open: a drain waits for it."""
        with self._open.current(), self._metrics.active_sessions.track_inprogress():
            yield

    async def wait_idle(self) -> None:
        """Return once no turn is open."""
        await self._open.wait_idle()

    async def cancel_all(self) -> None:
        """Cancel the open turns and wait until each has freed its lease; begin no more."""
        self._is_stopping = self.is_leaving = True
        if self._handing_over is not None:
            self._handing_over.cancel()
        for task in self._inboxes.values():
            task.cancel()
        self._open.cancel()
        await self._open.wait_idle()

    async def announce(self, session_id: str) -> None:
        """Tell the archive, if there is one, that the session has changed."""
        if not self._has_archive:
            return
        # A hint: the archiver also scans all sessions.
        with contextlib.suppress(StoreUnavailable):
            await uncancelled(self._store.outbox.announce(session_id), name="announce")

    @contextlib.asynccontextmanager
    async def _leased(self, attempt: Attempt, taken: Taken) -> AsyncIterator[Turn]:
        grant, request = taken.answer, attempt.request
        if grant.outcome != "GRANTED":
            log.info("session %s: turn begins as %s", request.session_id, grant.outcome)
        turn = Turn(
            grant,
            self._store,
            request.loop or self._loop,
            self._converse(grant, self._window),
            lease_until=taken.until,
            accepts_handover=request.accepts_handover,
            accepts_rewind=request.accepts_rewind,
        )
        self._metrics.active_sessions.inc()
        try:
            with self.registered(turn):
                yield turn
        finally:
            self._metrics.active_sessions.dec()
            self._metrics.turns.labels(turn.outcome).inc()
            queued: int | None
            if turn.finished:
                queued, attempt.is_over = turn.waiting, True
            else:
                # A worker that stops leaves its turns to the others; a client that left does not.
                is_left = self._is_stopping and turn.outcome == "interrupted"
                queued = await self._admission.release(attempt, is_left=is_left)
                attempt.is_over = queued is not None and not is_left
            if queued:
                self.serve_inbox(request.session_id, request.principal)
            await self.announce(request.session_id)

    async def _serve_inbox(self, session_id: str, principal: str) -> None:
        """Begin a turn with the queued messages once no other runs; its events are only logged."""
        queued = TurnRequest(session_id, principal, None)
        async with self._notifier.listen(channel(session_id)) as wakeup:
            while not self._is_stopping:
                try:
                    async with self.open(queued) as turn:
                        if isinstance(turn, Turn):
                            await _run_detached(turn)
                except TurnBusy:
                    # An event of the turn is not its end.
                    while await wakeup.wait(_LOOK_S) and wakeup.payload == "events":
                        pass
                except StoreUnavailable:
                    await wakeup.wait(_LOOK_S)
                except _InboxEmpty:
                    return
                except AgentError as error:
                    log.warning(
                        "session %s: its queued messages cannot begin a turn: %s", session_id, error
                    )
                    return

    def _stop_turn(self, payload: str) -> None:
        _, _, lease = payload.partition(" ")
        if turn := self._running.get(lease):
            turn.stop()


async def _run_detached(turn: Turn) -> None:
    try:
        await turn.run(discard)
    except AgentError as error:
        log.warning("%s: a queued turn failed: %s", turn, error)


class _InboxEmpty(Exception):
    """No message is queued."""
