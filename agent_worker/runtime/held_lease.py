"""The lease of a running turn: renewed in time, and its writes are retried while Redis is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from agent_worker.errors import StoreUnavailable
from agent_worker.tasks import uncancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from agent_worker.sessions import Lease, TurnStore

T = TypeVar("T")

# Seconds between two attempts of a write while Redis is away.
_STORE_RETRY_S = 0.25
# Seconds between two renewals: the heartbeat of a turn that writes no events (`turn_takeover`).
_RENEWAL_S = 1.0


class HeldLease:
    """`until` is the time of the loop's clock until which the lease is held at least."""

    def __init__(self, store: TurnStore, lease: Lease, until: float) -> None:
        self._store = store
        self._lease = lease
        self._until = until
        #: Held by commits and renewals: a renewal that arrives after the last commit would find the
        #: lease gone, and fail a turn that has just succeeded.
        self.lock = asyncio.Lock()
        #: Whether the last commit has freed it.
        self.is_freed = False

    async def keep(self, on_stop: Callable[[], None]) -> None:
        """Renew until cancelled; `on_stop` is called when the turn is asked to stop.

        Raises LeaseLost, SessionNotFound, StoreUnavailable.
        """
        clock = asyncio.get_running_loop().time
        pause = interval = min(_RENEWAL_S, self._store.lease_s / 3)
        while True:
            await asyncio.sleep(pause)
            pause = interval
            async with self.lock:
                if self.is_freed:
                    continue
                is_due_in = self._until - self._store.lease_s + interval - clock()
                if is_due_in > 0:
                    # Events have renewed it.
                    pause = is_due_in
                elif await self.persist(
                    lambda: self.renewed_by(self._store.renew(self._lease)), name="renew"
                ):
                    on_stop()

    async def renewed_by(self, write: Awaitable[T]) -> T:
        """Await a write that renews the lease."""
        asked_at = asyncio.get_running_loop().time()
        answer = await write
        self._until = max(self._until, asked_at + self._store.lease_s)
        return answer

    async def persist(self, write: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> T:
        """A write under the lease, retried while Redis is away and the lease is still held."""
        while True:
            try:
                return await uncancelled(write(), name=name)
            except StoreUnavailable:
                if asyncio.get_running_loop().time() + _STORE_RETRY_S > self._until:
                    raise
                await asyncio.sleep(_STORE_RETRY_S)
