"""Turns: take the lease, run the agent loop under it, keep its steps, give the lease back.

    open     begin      the lease is held and the user's message is in the history
    run      step...    each finished step is committed; the last commit frees the lease
    close    release    only if the turn did not get that far (cancelled, failed, lost)

A turn that is cancelled (its client left, the worker stops) keeps its finished steps; its
running step leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_worker.errors import AgentError, EngineFailed, SessionNotFound, StoreUnavailable
from agent_worker.runtime.events import DONE, ERROR, MESSAGE_DELTA, EventNumbering
from agent_worker.sessions import Answer, Grant, Replay, new_nonce, turn_text
from agent_worker.tasks import cancel_and_wait, spawn, uncancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from agent_worker.metrics import Metrics
    from agent_worker.runtime.events import Emit
    from agent_worker.runtime.loop import AgentLoop
    from agent_worker.sessions import Message, SessionStore

log = logging.getLogger(__name__)

# While Redis is away, writes are tried again this often, as long as the lease can still be held.
_STORE_RETRY_S = 0.25


@dataclass(frozen=True, slots=True)
class TurnRequest:
    session_id: str
    principal: str
    content: str
    idempotency_key: str | None = None


class ReplayedTurn:
    """The finished turn of a repeated Idempotency-Key: told again, not run again."""

    is_replay = True

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    async def run(self, emit: Emit) -> Answer:
        numbering = EventNumbering(self._replay.fence)
        answer = self._replay.answer
        if answer.content:
            await emit(numbering.event(MESSAGE_DELTA, {"content": answer.content}))
        await emit(numbering.event(DONE, answer.as_json()))
        return answer


class Turn:
    """A turn that holds its lease. Used once: `run`."""

    is_replay = False

    def __init__(
        self, grant: Grant, store: SessionStore, loop: AgentLoop, lease_until: float
    ) -> None:
        self.finished = False
        #: How it ended, for metrics: completed, step_limit, interrupted, or an error's code.
        self.outcome = "interrupted"
        self._lease = grant.lease
        self._store = store
        self._loop = loop
        self._history = list(grant.history)
        self._turn_at = grant.turn_at
        self._notes = dict(grant.notes)
        self._version, self._step = grant.version, grant.step
        self._is_final = True
        self._numbering = EventNumbering(grant.lease.fence)
        self._emit_lock = asyncio.Lock()
        # A renewal that arrives after the last commit would find the lease gone, and fail the
        # turn that has just succeeded.
        self._write_lock = asyncio.Lock()
        self._client: Emit
        self._lease_until = lease_until

    async def run(self, emit: Emit) -> Answer:
        """Run the turn to its end; its events go to `emit`, `done` or `error` as the last.

        Raises EngineFailed, LeaseLost, SessionNotFound (deleted meanwhile), StoreUnavailable,
        AgentError (a bug, logged), and ConnectionError from `emit`.
        """
        self._client = emit
        work = spawn(self._work(), name="turn")
        heartbeat = spawn(self._keep_lease(), name="lease renewal")
        try:
            await asyncio.wait({work, heartbeat}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(work, heartbeat)
        try:
            answer = _result(work, heartbeat)
        except AgentError as error:
            self.outcome = error.code
            # The client may have left; the error that counts is the first.
            with contextlib.suppress(ConnectionError):
                await self.emit(ERROR, {"code": error.code, "message": str(error)})
            raise
        await self.emit(DONE, answer.as_json())
        return answer

    async def emit(self, name: str, data: dict[str, Any]) -> None:
        # Tools of one step run together: the lock keeps the ids in order on the wire.
        async with self._emit_lock:
            await self._client(self._numbering.event(name, data))

    async def commit(
        self,
        messages: Sequence[Message],
        *,
        ends_turn: bool,
        is_final: bool,
        notes: dict[str, str] | None,
    ) -> None:
        commit_id = new_nonce()
        async with self._write_lock:
            while True:
                try:
                    self._version, self._step = await uncancelled(
                        self._store.commit(
                            self._lease,
                            expected_version=self._version,
                            commit_id=commit_id,
                            messages=messages,
                            ends_turn=ends_turn,
                            is_final=is_final,
                            notes=notes,
                        ),
                        name="commit",
                    )
                except StoreUnavailable as error:
                    await self._wait_for_store(error)
                else:
                    break
            if ends_turn:
                self.finished, self._is_final = True, is_final
                self.outcome = "completed" if is_final else "step_limit"

    async def _work(self) -> Answer:
        resumed = turn_text(self._history[self._turn_at :])
        if resumed:
            await self.emit(MESSAGE_DELTA, {"content": resumed})
        await self._loop.run(self, self._history, self._notes)
        content = turn_text(self._history[self._turn_at :])
        return Answer(self._lease.session_id, self._step, content, self._is_final)

    async def _keep_lease(self) -> None:
        """Renew until cancelled. Raises what says that the lease is gone."""
        while True:
            await asyncio.sleep(self._store.lease_s / 3)
            async with self._write_lock:
                if not self.finished:
                    await self._renew()

    async def _renew(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            asked = clock()
            try:
                await self._store.renew(self._lease)
            except StoreUnavailable as error:
                await self._wait_for_store(error)
            else:
                self._lease_until = asked + self._store.lease_s
                return

    async def _wait_for_store(self, error: StoreUnavailable) -> None:
        """Wait a little before the next try; raise `error` when the lease would be over by then."""
        if asyncio.get_running_loop().time() + _STORE_RETRY_S > self._lease_until:
            raise error
        await asyncio.sleep(_STORE_RETRY_S)


def _result(work: asyncio.Task[Answer], heartbeat: asyncio.Task[None]) -> Answer:
    """The answer, or why there is none. Raises AgentError, and ConnectionError (client left)."""
    try:
        if not work.cancelled():
            return work.result()
        if not heartbeat.cancelled():
            heartbeat.result()
    except (AgentError, ConnectionError):
        raise
    except Exception as error:
        log.exception("a turn failed")
        raise AgentError from error
    # Nobody cancelled the turn: the engine gave up by itself.
    raise EngineFailed


class Turns:
    """All turns of this worker."""

    def __init__(self, store: SessionStore, loop: AgentLoop, metrics: Metrics) -> None:
        self._store = store
        self._loop = loop
        self._metrics = metrics
        self._open: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._open)

    def __repr__(self) -> str:
        return f"Turns({len(self)} open)"

    @contextlib.asynccontextmanager
    async def open(self, request: TurnRequest) -> AsyncIterator[Turn | ReplayedTurn]:
        """Begin a turn; what `SessionStore.begin` refuses is raised here, before any output.

        Leaving the block gives the lease back, whatever happened inside.
        """
        with self._tracked():
            nonce = new_nonce()
            # Taken before Redis starts the lease, so that ours never ends later.
            lease_until = asyncio.get_running_loop().time() + self._store.lease_s
            granted = await self._begin(request, nonce)
            if isinstance(granted, Replay):
                self._metrics.turns.labels("replayed").inc()
                yield ReplayedTurn(granted)
                return
            if granted.outcome != "GRANTED":
                log.info("session %s: turn begins as %s", request.session_id, granted.outcome)
            turn = Turn(granted, self._store, self._loop, lease_until)
            self._metrics.active_sessions.inc()
            try:
                yield turn
            finally:
                if not turn.finished:
                    await self._release(request, nonce)
                self._metrics.active_sessions.dec()
                self._metrics.turns.labels(turn.outcome).inc()

    async def wait_idle(self) -> None:
        """Return once no turn is open."""
        await self._idle.wait()

    async def cancel_all(self) -> None:
        """Cancel the open turns and wait until each has given its lease back."""
        for task in self._open:
            task.cancel()
        await self._idle.wait()

    async def _begin(self, request: TurnRequest, nonce: str) -> Grant | Replay:
        begin = self._store.begin(
            request.session_id,
            request.principal,
            request.content,
            nonce=nonce,
            idempotency_key=request.idempotency_key,
        )
        try:
            return await uncancelled(begin, name="begin")
        except asyncio.CancelledError:
            # The reply was lost with the caller: it may have been a grant.
            await self._release(request, nonce)
            raise

    async def _release(self, request: TurnRequest, nonce: str) -> None:
        release = self._store.release(request.session_id, request.principal, nonce)
        try:
            await uncancelled(release, name="release")
        except SessionNotFound:
            pass
        except AgentError as error:
            log.warning("session %s: its lease runs out by itself: %s", request.session_id, error)

    @contextlib.contextmanager
    def _tracked(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self._idle.clear()
        try:
            yield
        finally:
            self._open.discard(task)
            if not self._open:
                self._idle.set()
