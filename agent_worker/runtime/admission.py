"""How a request gets its session's lease: at once, by waiting, interruption, or takeover."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from agent_worker.errors import (
    AgentError,
    LeaseLost,
    SessionNotFound,
    StoreUnavailable,
    TurnBusy,
    TurnInProgress,
)
from agent_worker.sessions import NotTaken, new_nonce
from agent_worker.sessions.event_log import channel
from agent_worker.tasks import uncancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from agent_worker.runtime.holders import Holders
    from agent_worker.runtime.large import LargeTexts
    from agent_worker.runtime.loop import AgentLoop
    from agent_worker.runtime.notifier import Notifier
    from agent_worker.sessions import Message, SessionStore


log = logging.getLogger(__name__)

Policy = Literal["reject", "enqueue", "interrupt"]

# Seconds between two attempts while another turn runs: its end may be notified, or not.
_LOOK_S = 2.0
# Seconds beyond the lease that is waited for, for the difference of clocks.
_GRACE_S = 1.0
# Seconds between two looks for a heartbeat of the holder. It has sent one if its turn would be free
# by so much later than before.
_HEARTBEAT_LOOK_S, _HEARD_S = 0.25, 0.1


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """`content` None: a turn of the queued messages only."""

    session_id: str
    principal: str
    content: str | None
    idempotency_key: str | None = None
    policy: Policy = "reject"
    #: Whether the client reconnects elsewhere after the event `handover`.
    accepts_handover: bool = False
    #: Whether the client drops what it has of a step after the event `rewind`.
    accepts_rewind: bool = True
    #: Replaces the worker's own loop.
    loop: AgentLoop | None = None


@dataclass(slots=True)
class Attempt:
    """One attempt at a turn, and its entry in the index of running turns."""

    request: TurnRequest
    nonce: str
    #: Whether its entry can go: no worker has to continue the turn.
    is_over: bool = False


class Taken(NamedTuple):
    """What the store answered. A granted lease is held until `until` at least (loop's clock)."""

    answer: Any
    until: float


@dataclass(eq=False)
class Admission:
    """Begins turns in `store`. `worker` names this worker in its leases."""

    worker: str
    store: SessionStore
    notifier: Notifier
    holders: Holders
    large: LargeTexts

    @contextlib.asynccontextmanager
    async def attempt(self, request: TurnRequest) -> AsyncIterator[Attempt]:
        """An attempt that is in the index, so that other workers find it if this one dies."""
        attempt = Attempt(request, f"{self.worker}.{new_nonce()}")
        index = self.store.index
        await index.enter(request.session_id, attempt.nonce)
        try:
            yield attempt
        finally:
            index.leave(request.session_id, attempt.nonce, is_over=attempt.is_over)

    async def begin(self, attempt: Attempt) -> Taken:
        """Begin the turn. Raises what `SessionStore.begin` refuses."""
        with _refusals_end(attempt):
            message = await self._message(attempt.request)
            try:
                return await self._begin(attempt, message)
            except TurnBusy as busy:
                if attempt.request.policy == "interrupt":
                    return await self._interrupt(attempt, message)
                if not isinstance(busy, TurnInProgress):
                    raise
                return await self._resume(attempt, message, busy)

    async def take_over(self, attempt: Attempt, turn: str) -> Taken:
        """Take the lease of an unfinished turn (`SessionStore.take_over`)."""
        request = attempt.request
        with _refusals_end(attempt):
            taken = await self._ask(
                self.store.take_over(
                    request.session_id,
                    request.principal,
                    turn,
                    nonce=attempt.nonce,
                    silent_s=self.holders.least_s,
                ),
                attempt,
            )
            attempt.is_over = isinstance(taken.answer, NotTaken)
            return taken

    async def release(self, attempt: Attempt, *, is_left: bool = False) -> int | None:
        """Free the lease. Returns the number of queued messages; None if it was not held."""
        request = attempt.request
        release = self.store.release(
            request.session_id, request.principal, attempt.nonce, is_left=is_left
        )
        try:
            return await uncancelled(release, name="release")
        except SessionNotFound:
            return None
        except AgentError as error:
            log.warning("session %s: its lease has to expire: %s", request.session_id, error)
            return None

    async def _resume(
        self, attempt: Attempt, message: Message | None, busy: TurnInProgress
    ) -> Taken:
        """Resume the turn of the request's key from a holder that may be dead.

        Raises TurnInProgress once the holder sends a heartbeat. So the first retry of a client
        whose worker died gets the turn, however early it comes.
        """
        clock = asyncio.get_running_loop().time
        free_at = clock() + busy.free_in_s
        async with self.notifier.listen(channel(attempt.request.session_id)) as wakeup:
            while True:
                await wakeup.wait(min(max(free_at - clock(), 0.0), _HEARTBEAT_LOOK_S))
                wait_s = await self.holders.wait_s(busy.holder, busy.silent_s)
                try:
                    return await self._begin(
                        attempt, message, None if wait_s else self.holders.least_s
                    )
                except TurnInProgress as still:
                    if clock() + still.free_in_s > free_at + _HEARD_S:
                        raise
                    busy = still

    async def _interrupt(self, attempt: Attempt, message: Message | None) -> Taken:
        """Stop the running turn, and begin. Raises TurnBusy if it does not stop within a lease."""
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + self.store.lease_s + _GRACE_S
        request = attempt.request
        async with self.notifier.listen(channel(request.session_id)) as wakeup:
            while True:
                # Each time: another turn may be running by now.
                await self.store.interrupt(request.session_id, request.principal)
                await wakeup.wait(min(_LOOK_S, max(give_up_at - clock(), 0.0)))
                try:
                    return await self._begin(attempt, message)
                except TurnBusy:
                    if clock() >= give_up_at:
                        raise

    async def _message(self, request: TurnRequest) -> Message | None:
        if request.content is None:
            return None
        message: Message = {"role": "user", "content": request.content}
        return await self.large.keep(request.session_id, message)

    async def _begin(
        self, attempt: Attempt, message: Message | None, silent_s: float | None = None
    ) -> Taken:
        """`silent_s` as in `SessionStore.begin`; by default the silence that is sure."""
        request = attempt.request
        begin = self.store.begin(
            request.session_id,
            request.principal,
            message,
            nonce=attempt.nonce,
            idempotency_key=request.idempotency_key,
            policy="enqueue" if request.policy == "enqueue" else "reject",
            silent_s=self.holders.sure_s if silent_s is None else silent_s,
        )
        return await self._ask(begin, attempt)

    async def _ask(self, ask: Coroutine[Any, Any, object], attempt: Attempt) -> Taken:
        # Read before Redis starts the lease, so that ours never ends later.
        until = asyncio.get_running_loop().time() + self.store.lease_s
        try:
            return Taken(await uncancelled(ask, name="begin"), until)
        except (asyncio.CancelledError, StoreUnavailable):
            # The lost reply may have been a grant.
            await self.release(attempt)
            raise


@contextlib.contextmanager
def _refusals_end(attempt: Attempt) -> Iterator[None]:
    """A refusal inside the block has begun nothing, unless it leaves that unknown."""
    try:
        yield
    except (StoreUnavailable, LeaseLost):
        raise
    except AgentError:
        attempt.is_over = True
        raise
