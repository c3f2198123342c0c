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

from agent_worker.errors import AgentError, Draining, SessionNotFound, StoreUnavailable, TurnBusy
from agent_worker.runtime.events import nobody
from agent_worker.runtime.turn import ReplayedTurn, Turn
from agent_worker.sessions import Grant, Nothing, NotTaken, Queued, Replay, new_nonce
from agent_worker.sessions.event_log import channel
from agent_worker.tasks import spawn_reporting, uncancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from agent_worker.metrics import Metrics
    from agent_worker.runtime.bells import Bell, Bells
    from agent_worker.runtime.loop import AgentLoop
    from agent_worker.sessions import Message, SessionStore

T = TypeVar("T")

log = logging.getLogger(__name__)

Policy = Literal["reject", "enqueue", "interrupt"]

# A bell can be missed: whoever waits for a turn to end looks at least this often (seconds).
_LOOK_S = 2.0
# Beyond the lease that is waited for, for clocks that do not agree.
_GRACE_S = 1.0


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


class Turns:
    """`window` is what a model may get, in tokens. `start` before, `stop` after."""

    def __init__(
        self,
        store: SessionStore,
        loop: AgentLoop,
        bells: Bells,
        metrics: Metrics,
        *,
        window: int,
        has_archive: bool = False,
    ) -> None:
        self._store = store
        self._loop = loop
        self._bells = bells
        self._metrics = metrics
        self._window = window
        self._has_archive = has_archive
        #: Names this worker in the leases that it takes.
        self._name = secrets.token_hex(8)
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
        await self._bells.obey(f"hermes:worker:{self._name}", self._stop_turn)

    @contextlib.asynccontextmanager
    async def open(self, request: TurnRequest) -> AsyncIterator[Turn | ReplayedTurn | Queued]:
        """Begin a turn; what `SessionStore.begin` refuses is raised here, before any output.

        Leaving the block gives the lease back, whatever happened inside.
        """
        with self._tracked():
            nonce = f"{self._name}.{new_nonce()}"
            granted, lease_until = await self._take(request, nonce)
            if isinstance(granted, Queued):
                self._look_after(request)
                yield granted
            elif isinstance(granted, Nothing):
                raise _NothingWaits
            elif isinstance(granted, Replay):
                self._metrics.turns.labels("replayed").inc()
                messages = await self._loop.tool_calls.large.restore(granted.messages)
                yield ReplayedTurn(granted, messages)
            else:
                async with self._leased(request, nonce, granted, lease_until) as turn:
                    yield turn

    @contextlib.asynccontextmanager
    async def take_over(
        self, request: TurnRequest, turn: str, *, silent_s: float
    ) -> AsyncIterator[Turn | NotTaken]:
        """Go on with a turn whose worker died (`SessionStore.take_over`). Leaving is as in `open`.

        Raises Draining.
        """
        with self._tracked():
            if self.is_leaving:
                raise Draining
            nonce = f"{self._name}.{new_nonce()}"
            lease_until = asyncio.get_running_loop().time() + self._store.lease_s
            taken = await self._ask(
                self._store.take_over(
                    request.session_id, request.principal, turn, nonce=nonce, silent_s=silent_s
                ),
                request,
                nonce,
            )
            if isinstance(taken, NotTaken):
                yield taken
            else:
                async with self._leased(request, nonce, taken, lease_until) as running:
                    yield running

    def hand_over(self) -> None:
        """From now on, end turns behind their next commit if their clients can go on elsewhere."""
        self.is_leaving = True
        for turn in self._running.values():
            turn.hand_over()

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
        except TurnBusy:
            if request.policy != "interrupt":
                raise
        give_up_at = until + _GRACE_S
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
        self, request: TurnRequest, message: Message | None, nonce: str
    ) -> Grant | Replay | Queued | Nothing:
        begin = self._store.begin(
            request.session_id,
            request.principal,
            message,
            nonce=nonce,
            idempotency_key=request.idempotency_key,
            policy="enqueue" if request.policy == "enqueue" else "reject",
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
    async def _leased(
        self, request: TurnRequest, nonce: str, grant: Grant, lease_until: float
    ) -> AsyncIterator[Turn]:
        if grant.outcome != "GRANTED":
            log.info("session %s: turn begins as %s", request.session_id, grant.outcome)
        turn = Turn(
            grant,
            self._store,
            self._loop,
            lease_until=lease_until,
            window=self._window,
            accepts_handover=request.accepts_handover,
        )
        if self.is_leaving:
            turn.hand_over()
        self._running[turn.lease_value] = turn
        self._metrics.active_sessions.inc()
        waiting: int | None = None
        try:
            yield turn
        finally:
            waiting = turn.waiting if turn.finished else await self._release(request, nonce)
            del self._running[turn.lease_value]
            self._metrics.active_sessions.dec()
            self._metrics.turns.labels(turn.outcome).inc()
            await self.announce(request.session_id)
            if waiting and (task := self._look_after(request)) is not None:
                # A drain waits for what waited for this turn.
                self._track(task)

    async def _release(self, request: TurnRequest, nonce: str) -> int | None:
        """How many messages wait; None when there was nothing to give back."""
        release = self._store.release(request.session_id, request.principal, nonce)
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
        self._open.add(task)
        self._idle.clear()
        task.add_done_callback(self._untrack)

    def _untrack(self, task: asyncio.Task[Any]) -> None:
        task.remove_done_callback(self._untrack)
        self._open.discard(task)
        if not self._open:
            self._idle.set()


async def _run_unheard(turn: Turn) -> None:
    try:
        await turn.run(nobody)
    except AgentError as error:
        log.warning("%s: a queued turn failed: %s", turn, error)


class _NothingWaits(Exception):
    """The inbox is empty."""
