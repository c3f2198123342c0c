"""All turns of a worker: who may begin one, what waits for its turn, and how all of them end.

    open     begin      the lease is held and the user's message is in the history
                        (`take_over`: so it was already; another worker has begun the turn)
    run      step...    what is finished is committed; the last commit frees the lease
    close    release    only if the turn did not get that far (cancelled, failed, lost)

A message that comes while a turn runs is refused, waits (`enqueue`), or takes its place
(`interrupt`). What waits opens the next turn, all of it together, whoever begins that: the worker
whose turn has just ended, or the one that took the message if that one died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from agent_worker.errors import (
    AgentError,
    Draining,
    LeaseLost,
    SessionNotFound,
    StoreUnavailable,
    TurnBusy,
    TurnInProgress,
)
from agent_worker.runtime.conversation import Conversation
from agent_worker.runtime.events import nobody
from agent_worker.runtime.holders import worker_channel
from agent_worker.runtime.turn import ReplayedTurn, Turn
from agent_worker.sessions import Grant, Nothing, NotTaken, Queued, new_nonce
from agent_worker.sessions.event_log import channel
from agent_worker.tasks import spawn_reporting, uncancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from agent_worker.metrics import Metrics
    from agent_worker.runtime.bells import Bell, Bells
    from agent_worker.runtime.holders import Holders
    from agent_worker.runtime.loop import AgentLoop
    from agent_worker.sessions import Message, Replay, SessionStore

T = TypeVar("T")

log = logging.getLogger(__name__)

Policy = Literal["reject", "enqueue", "interrupt"]

# Seconds. A bell can be missed: whoever waits for a turn to end looks at least this often.
_LOOK_S = 2.0
# Beyond the lease that is waited for, for clocks that do not agree.
_GRACE_S = 1.0
# Whoever waits for the heartbeat of another worker looks this often; that one was heard of if its
# turn would be free by so much later than before (seconds).
_HEARTBEAT_LOOK_S, _HEARD_S = 0.25, 0.1


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """`content` None: what waits in the session's inbox, and nothing else."""

    session_id: str
    principal: str
    content: str | None
    idempotency_key: str | None = None
    policy: Policy = "reject"
    #: Whether the client goes on elsewhere when it is told `handover`.
    accepts_handover: bool = False
    #: Whether the client drops what it has of a step when it is told `rewind`.
    accepts_rewind: bool = True
    #: In place of the worker's own.
    loop: AgentLoop | None = None


class Turns:
    """`window` is what a model may get, in tokens. `start` before, `stop` after.

    `converse` makes the conversation of a grant. The turns count as those of `counted_by` too,
    which ends them.
    """

    def __init__(
        self,
        store: SessionStore,
        loop: AgentLoop,
        bells: Bells,
        holders: Holders,
        metrics: Metrics,
        *,
        window: int,
        has_archive: bool = False,
        converse: Callable[[Grant, int], Conversation] = Conversation,
        counted_by: Turns | None = None,
    ) -> None:
        self._store = store
        self._loop = loop
        self._bells = bells
        self.holders = holders
        self._metrics = metrics
        self._window = window
        self._has_archive = has_archive
        self._converse = converse
        self._counted_by = counted_by
        #: Names this worker in the leases that it takes.
        self.name: str = counted_by.name if counted_by is not None else secrets.token_hex(8)
        self._open: set[asyncio.Task[Any]] = set()
        self._running: dict[str, Turn] = {}
        self._looking_after: dict[str, asyncio.Task[object]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_stopping = False
        #: Whether the worker shuts down: what can go on elsewhere shall.
        self.is_leaving = False

    def __len__(self) -> int:
        return len(self._open)

    def __repr__(self) -> str:
        return f"Turns({len(self)} open)"

    async def start(self) -> None:
        """Hear of turns that shall stop."""
        await self._bells.obey(worker_channel(self.name), self._stop_turn)

    @contextlib.asynccontextmanager
    async def open(self, request: TurnRequest) -> AsyncIterator[Turn | ReplayedTurn | Queued]:
        """Begin a turn; what `SessionStore.begin` refuses is raised here, before any output.

        Leaving the block gives the lease back, whatever happened inside.
        """
        nonce = f"{self.name}.{new_nonce()}"
        with self._tracked():
            async with self._indexed(request, nonce) as entry:
                with _refused(entry):
                    granted, lease_until = await self._take(request, nonce)
                if isinstance(granted, Grant):
                    leased = self._leased(request, nonce, granted, lease_until, entry)
                    async with leased as turn:
                        yield turn
                    return
                entry.is_over = True
                if isinstance(granted, Queued):
                    self._look_after(request)
                    yield granted
                elif isinstance(granted, Nothing):
                    raise _NothingWaits
                else:
                    self._metrics.turns.labels("replayed").inc()
                    messages = await self._loop.tool_calls.large.restore(granted.messages)
                    yield ReplayedTurn(granted, messages)

    @contextlib.asynccontextmanager
    async def take_over(self, request: TurnRequest, turn: str) -> AsyncIterator[Turn | NotTaken]:
        """Go on with a turn whose worker died (`SessionStore.take_over`). Leaving is as in `open`.

        Raises Draining.
        """
        nonce = f"{self.name}.{new_nonce()}"
        with self._tracked():
            if self.is_leaving:
                raise Draining
            async with self._indexed(request, nonce) as entry:
                lease_until = asyncio.get_running_loop().time() + self._store.lease_s
                take = self._store.take_over(
                    request.session_id,
                    request.principal,
                    turn,
                    nonce=nonce,
                    silent_s=self.holders.least_s,
                )
                with _refused(entry):
                    taken = await self._ask(take, request, nonce)
                if isinstance(taken, NotTaken):
                    entry.is_over = True
                    yield taken
                else:
                    leased = self._leased(request, nonce, taken, lease_until, entry)
                    async with leased as running:
                        yield running

    def look_after(self, session_id: str, principal: str) -> None:
        """See to it that what waits in the session gets its turn."""
        self._look_after(TurnRequest(session_id, principal, None))

    def hand_over(self) -> None:
        """From now on, end turns that can go on elsewhere (`Turn.hand_over`)."""
        self.is_leaving = True
        for turn in self._running.values():
            turn.hand_over()

    @contextlib.contextmanager
    def reaching(self, turn: Turn) -> Iterator[None]:
        """A turn that hears inside of the block when it shall stop or be handed over."""
        if self.is_leaving:
            turn.hand_over()
        self._running[turn.lease_value] = turn
        try:
            yield
        finally:
            del self._running[turn.lease_value]

    @contextlib.contextmanager
    def without_session(self) -> Iterator[None]:
        """A turn of no session is open: a drain waits for it, and `cancel_all` ends it."""
        with self._tracked(), self._metrics.active_sessions.track_inprogress():
            yield

    async def wait_idle(self) -> None:
        """Return once no turn is open."""
        await self._idle.wait()

    async def cancel_all(self) -> None:
        """Cancel the open turns and wait until each has given its lease back; begin none again."""
        self._is_stopping = self.is_leaving = True
        for task in [*self._looking_after.values(), *self._open]:
            task.cancel()
        await self._idle.wait()

    # Begin.

    async def _take(self, request: TurnRequest, nonce: str) -> tuple[Any, float]:
        """What `begin` gives, and until when a lease that it granted is held at least."""
        message = await self._message(request)
        clock = asyncio.get_running_loop().time
        # Taken before Redis starts the lease, so that ours never ends later.
        until = clock() + self._store.lease_s
        try:
            return await self._begin(request, message, nonce), until
        except TurnBusy as busy:
            if request.policy == "interrupt":
                return await self._take_place(request, message, nonce, give_up_at=until + _GRACE_S)
            if not isinstance(busy, TurnInProgress):
                raise
            return await self._resume(request, message, nonce, busy)

    async def _resume(
        self, request: TurnRequest, message: Message | None, nonce: str, busy: TurnInProgress
    ) -> tuple[Any, float]:
        """The turn of the request's key, which another worker has: it may be dead.

        Its heartbeat says that it is not: raises TurnInProgress then. A client whose worker died
        so gets its turn with its first retry, be that early.
        """
        clock = asyncio.get_running_loop().time
        free_at = clock() + busy.free_in_s
        async with self._bells.listen(channel(request.session_id)) as bell:
            while True:
                await bell.wait(min(max(free_at - clock(), 0.0), _HEARTBEAT_LOOK_S))
                wait_s = await self.holders.wait_s(busy.holder, busy.silent_s)
                silent_s = None if wait_s else self.holders.least_s
                until = clock() + self._store.lease_s
                try:
                    begun = await self._begin(request, message, nonce, silent_s)
                    return begun, until
                except TurnInProgress as still:
                    if clock() + still.free_in_s > free_at + _HEARD_S:
                        raise
                    busy = still

    async def _take_place(
        self, request: TurnRequest, message: Message | None, nonce: str, *, give_up_at: float
    ) -> tuple[Any, float]:
        """Stop the turn that runs, and begin in its place. Raises TurnBusy if it does not stop."""
        clock = asyncio.get_running_loop().time
        async with self._bells.listen(channel(request.session_id)) as bell:
            while True:
                # Again each time: the turn that runs by now may be another one.
                await self._store.interrupt(request.session_id, request.principal)
                await bell.wait(min(_LOOK_S, max(give_up_at - clock(), 0.0)))
                until = clock() + self._store.lease_s
                try:
                    return await self._begin(request, message, nonce), until
                except TurnBusy:
                    if clock() >= give_up_at:
                        raise

    async def _message(self, request: TurnRequest) -> Message | None:
        if request.content is None:
            return None
        large = self._loop.tool_calls.large
        return await large.keep(request.session_id, {"role": "user", "content": request.content})

    async def _begin(
        self,
        request: TurnRequest,
        message: Message | None,
        nonce: str,
        silent_s: float | None = None,
    ) -> Grant | Replay | Queued | Nothing:
        """`silent_s` is as in `SessionStore.begin`; by default what costs any holder its turn."""
        begin = self._store.begin(
            request.session_id,
            request.principal,
            message,
            nonce=nonce,
            idempotency_key=request.idempotency_key,
            policy="enqueue" if request.policy == "enqueue" else "reject",
            silent_s=self.holders.sure_s if silent_s is None else silent_s,
        )
        return await self._ask(begin, request, nonce)

    async def _ask(self, begin: Coroutine[Any, Any, T], request: TurnRequest, nonce: str) -> T:
        """What gives a lease, if it does not go wrong half-way."""
        try:
            return await uncancelled(begin, name="begin")
        except (asyncio.CancelledError, StoreUnavailable):
            # The reply was lost: it may have been a grant.
            await self._release(request, nonce)
            raise

    @contextlib.asynccontextmanager
    async def _indexed(self, request: TurnRequest, nonce: str) -> AsyncIterator[_Entry]:
        """The attempt is in the index of running turns, for the time when this worker is dead."""
        index, entry = self._store.index, _Entry()
        await index.enter(request.session_id, nonce)
        try:
            yield entry
        finally:
            index.leave(request.session_id, nonce, is_over=entry.is_over)

    @contextlib.asynccontextmanager
    async def _leased(
        self, request: TurnRequest, nonce: str, grant: Grant, lease_until: float, entry: _Entry
    ) -> AsyncIterator[Turn]:
        if grant.outcome != "GRANTED":
            log.info("session %s: turn begins as %s", request.session_id, grant.outcome)
        turn = Turn(
            grant,
            self._store,
            request.loop or self._loop,
            self._converse(grant, self._window),
            lease_until=lease_until,
            accepts_handover=request.accepts_handover,
            accepts_rewind=request.accepts_rewind,
        )
        self._metrics.active_sessions.inc()
        waiting: int | None = None
        try:
            with self.reaching(turn):
                yield turn
        finally:
            if turn.finished:
                waiting, entry.is_over = turn.waiting, True
            else:
                # A worker that stops leaves its turns to the others; a client that left does not.
                is_left = self._is_stopping and turn.outcome == "interrupted"
                waiting = await self._release(request, nonce, is_left=is_left)
                entry.is_over = waiting is not None and not is_left
            self._metrics.active_sessions.dec()
            self._metrics.turns.labels(turn.outcome).inc()
            await self.announce(request.session_id)
            if waiting and (task := self._look_after(request)) is not None:
                # A drain waits for what waited for this turn.
                self._track(task)

    async def _release(
        self, request: TurnRequest, nonce: str, *, is_left: bool = False
    ) -> int | None:
        """How many messages wait; None when there was nothing to give back."""
        release = self._store.release(request.session_id, request.principal, nonce, is_left=is_left)
        try:
            return await uncancelled(release, name="release")
        except SessionNotFound:
            return None
        except AgentError as error:
            log.warning("session %s: its lease runs out by itself: %s", request.session_id, error)
            return None

    async def announce(self, session_id: str) -> None:
        """Tell the archive, if there is one, that something is new in this session."""
        if not self._has_archive:
            return
        # A hint only: the archiver looks through all sessions as well.
        with contextlib.suppress(StoreUnavailable):
            await uncancelled(self._store.outbox.announce(session_id), name="announce")

    # What waits.

    def _look_after(self, request: TurnRequest) -> asyncio.Task[object] | None:
        """See to it that what waits in the session gets its turn, from a task of its own."""
        if self._is_stopping or request.session_id in self._looking_after:
            return None
        waiting = TurnRequest(request.session_id, request.principal, None)
        task = spawn_reporting(self._serve_inbox(waiting), name="inbox")
        self._looking_after[request.session_id] = task
        task.add_done_callback(lambda _: self._looking_after.pop(request.session_id))
        return task

    async def _serve_inbox(self, waiting: TurnRequest) -> None:
        """Begin a turn with what waits, as soon as none runs; nobody listens but the log."""
        async with self._bells.listen(channel(waiting.session_id)) as bell:
            while not self._is_stopping:
                try:
                    async with self.open(waiting) as turn:
                        if isinstance(turn, Turn):
                            await _run_unheard(turn)
                except TurnBusy:
                    await self._turn_ended(bell)
                except StoreUnavailable:
                    await bell.wait(_LOOK_S)
                except _NothingWaits:
                    return
                except AgentError as error:
                    log.warning("session %s: what waits can't begin: %s", waiting.session_id, error)
                    return

    async def _turn_ended(self, bell: Bell) -> None:
        """Return when a turn may have ended."""
        while await bell.wait(_LOOK_S) and bell.said == "events":
            pass

    def _stop_turn(self, said: str) -> None:
        _, _, lease = said.partition(" ")
        if turn := self._running.get(lease):
            turn.stop()

    @contextlib.contextmanager
    def _tracked(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._track(task)
        try:
            yield
        finally:
            self._untrack(task)

    def _track(self, task: asyncio.Task[Any]) -> None:
        if self._counted_by is not None:
            self._counted_by._track(task)
        self._open.add(task)
        self._idle.clear()
        task.add_done_callback(self._untrack)

    def _untrack(self, task: asyncio.Task[Any]) -> None:
        if self._counted_by is not None:
            self._counted_by._untrack(task)
        task.remove_done_callback(self._untrack)
        self._open.discard(task)
        if not self._open:
            self._idle.set()


@dataclass(slots=True)
class _Entry:
    """Of an attempt, in the index. `is_over`: nobody has to go on with it."""

    is_over: bool = False


@contextlib.contextmanager
def _refused(entry: _Entry) -> Iterator[None]:
    """What is refused inside has begun nothing, unless it is not known."""
    try:
        yield
    except (StoreUnavailable, LeaseLost):
        raise
    except AgentError:
        entry.is_over = True
        raise


async def _run_unheard(turn: Turn) -> None:
    try:
        await turn.run(nobody)
    except AgentError as error:
        log.warning("%s: a queued turn failed: %s", turn, error)


class _NothingWaits(Exception):
    """The inbox is empty."""
