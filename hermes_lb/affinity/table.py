"""The session table of one backend: in memory, or shared by several processes or balancers.

A local entry is used for a while; then the shared store is asked again, which brings the changes of
others, and counts as a use of the key there. While the store can't be reached, a key without a
local entry is unknown, and the strategy picks: a session that only another balancer has seen may
then reach a server that does not have it.

What an operator has cleared stays in the store as a mark for as long as another balancer may know
the session, so that none brings it back: only a response that assigns it again writes over that.
"""

from __future__ import annotations

import asyncio
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from hermes_lb.affinity.stores.base import CLEARED
from hermes_lb.affinity.stores.memory import MemoryStore
from hermes_lb.affinity.stores.registry import open_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from hermes_lb.affinity.stores.base import SharedStore
    from hermes_lb.affinity.stores.registry import TableOptions
    from hermes_lb.tasks import Tasks

# Of `expire`: the store has to hear that a key is in use well before the key expires there.
_MOST_TRUSTED = 1 / 3


class SessionTable:
    """`find` first, then `look_up` if `is_shared`; `store` what a response says.

    `shared` opens the store that the processes of one balancer share, for a backend's name.
    """

    # Without a shared store no other process changes an entry.
    _trusted = inf

    def __init__(
        self,
        name: str,
        configured: TableOptions,
        *,
        clock: Callable[[], float],
        tasks: Tasks,
        shared: Callable[[str], SharedStore] | None = None,
    ) -> None:
        self._name = name
        self._clock = clock
        self._shared = open_store(name, configured, clock, tasks)
        if self._shared is None and shared is not None:
            self._shared = shared(name)
        if self._shared is not None:
            self._trusted = min(self._shared.freshness, configured.expire * _MOST_TRUSTED)
        self._local = MemoryStore(configured.size, configured.expire)

    def __repr__(self) -> str:
        return f"<SessionTable of {self._name}: {self._local!r}>"

    @property
    def is_shared(self) -> bool:
        """Whether `look_up` makes sense."""
        return self._shared is not None and self._shared.is_reachable

    def find(self, key: bytes, now: float) -> str | None:
        """The server's name, if this process knows it and need not ask the shared store again."""
        return self._local.find(key, now) if self._is_trusted(key, now) else None

    def _is_trusted(self, key: bytes, now: float) -> bool:
        return not self.is_shared or now - self._local.as_of(key) < self._trusted

    async def look_up(self, key: bytes) -> str | None:
        """The server's name, by the shared store or this process; bounded in time by the store."""
        assert self._shared is not None
        asked_at = self._clock()
        name = await self._shared.look_up(key)
        now = self._clock()
        known = self._local.find(key, now)
        is_unheard = not self._local.is_announced(key)
        is_newer = self._local.as_of(key) >= asked_at or is_unheard
        if known is not None and (name is None or is_newer):
            # A response was faster, or the store did not answer, or does not have the entry.
            if name != known and self.is_shared:
                if is_unheard:
                    self._announce(key, known, now)
                else:
                    self._refresh(key, known, now)
            return known
        if name == CLEARED:
            self._local.forget(key, now)
            return None
        if name is not None:
            self._local.store(key, name, now)
        return name

    def note(self, key: bytes, name: str) -> None:
        """Store what another process has learnt."""
        self._local.store(key, name, self._clock())

    def store(self, keys: Iterable[bytes], name: str, now: float) -> Awaitable[object] | None:
        """Assign these sessions to this server.

        Returns an awaitable that ends when the shared store has the new ones, or has failed; None:
        nothing to wait for.
        """
        awaited: list[Awaitable[object]] = []
        for key in keys:
            is_news = self._local.find(key, now) != name
            if is_news:
                announced = self._announce(key, name, now)
                if announced is not None:
                    awaited.append(announced)
            elif not self._is_trusted(key, now):
                if self._local.is_announced(key):
                    self._refresh(key, name, now)
                else:
                    self._announce(key, name, now)
        return asyncio.gather(*awaited, return_exceptions=True) if awaited else None

    def _announce(self, key: bytes, name: str, now: float) -> Awaitable[object] | None:
        self._local.store(key, name, now)
        if self._shared is None:
            return None
        if not self._shared.is_reachable:
            self._local.not_announced(key, name)
            return None
        announced = self._shared.announce(key, name)
        if announced is not None:
            announced.add_done_callback(partial(self._was_announced, key, name))
        return announced

    def _was_announced(self, key: bytes, name: str, done: asyncio.Future[bool]) -> None:
        if done.cancelled() or done.exception() is not None or not done.result():
            self._local.not_announced(key, name)

    def _refresh(self, key: bytes, name: str, now: float) -> None:
        assert self._shared is not None
        self._local.store(key, name, now)
        refreshed = self._shared.refresh(key, name)
        if refreshed is not None:
            refreshed.add_done_callback(partial(self._was_refreshed, key, now))

    def _was_refreshed(self, key: bytes, now: float, done: asyncio.Future[bool]) -> None:
        if not done.cancelled() and done.exception() is None and not done.result():
            self._local.forget(key, now)

    def pins(self) -> Iterable[tuple[bytes, str]]:
        """Keys and servers' names that this process knows."""
        return self._local.items()

    def clear(self, name: str | None, pin: str | None) -> int:
        """Forget entries of this process -> their number (`MemoryStore.clear`)."""
        return self._local.clear(name, pin)

    def take_over(self, other: SessionTable) -> None:
        """Take the entries of a table with other options."""
        self._local.take_over(other._local)

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()
