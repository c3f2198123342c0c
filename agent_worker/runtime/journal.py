"""The journal of a turn of no session: in Redis, so that another worker can go on with it.

A chat whose client sends the whole conversation needs no Redis, and a journal must not change that.
So it is kept as long as Redis takes it, within `_PATIENCE_S` for each write; from the first write
that fails on, the turn goes on without one, and can't be resumed any more.

It is a session of its own, in a key space that no other endpoint and no archive looks into
(`sessions.keys`). It lives for an hour at most, and `_REST_S` from the end of its turn.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from agent_worker.errors import AgentError
from agent_worker.sessions import Grant, Lease, SessionStore, ToolStart, new_nonce
from agent_worker.sessions.keys import CHATS
from agent_worker.tasks import uncancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agent_worker.sessions import Client, Event, Message

T = TypeVar("T")

log = logging.getLogger(__name__)

# Seconds. What a stream may stand still, once, because Redis hangs.
_PATIENCE_S = 1.0
# After a journal that could not begin: the streams that begin meanwhile do not wait as well.
_PAUSE_S = 2.0
_LIFE_S = 3600.0
# For whoever has lost the last bytes of the answer on their way.
_REST_S = 60.0
# A turn without a journal holds no lease; far beyond any turn.
_FOREVER_S = 1e9


def chat_store(client: Client, sessions: SessionStore) -> SessionStore:
    """Where journals are; of the worker whose `sessions` are these.

    Nobody finishes a chat whose client does not come back: a search for orphans does not find its
    journal among the sessions, and drops its entry of the index.
    """
    return SessionStore(
        client,
        lease_s=sessions.lease_s,
        sliding_s=_LIFE_S,
        absolute_s=_LIFE_S,
        space=CHATS,
        index=sessions.index,
    )


class Journals:
    """Begins them."""

    def __init__(self, store: SessionStore, worker: str) -> None:
        """`worker`: its name in the leases (`Turns.name`)."""
        self._store = store
        self._worker = worker
        self._not_before = float("-inf")

    async def begin(self, grant: Grant, spec: dict[str, Any]) -> tuple[Grant, Journal] | None:
        """A journal of the turn, and the turn's grant under its lease; None: Redis takes none.

        `spec` is kept with it: what another worker has to know (`spec_of`).
        """
        clock = asyncio.get_running_loop().time
        if clock() < self._not_before:
            return None
        principal, (*before, last) = grant.lease.principal, grant.history
        nonce = f"{self._worker}.{new_nonce()}"
        try:
            async with asyncio.timeout(_PATIENCE_S):
                session_id = await self._store.create(
                    principal,
                    spec,
                    messages=before,
                    summary=grant.summary.text,
                    rest_s=_REST_S,
                )
                begun = await self._store.begin(session_id, principal, last, nonce=nonce)
        except (AgentError, TimeoutError) as error:
            self._not_before = clock() + _PAUSE_S
            log.warning("a chat has no journal: %s", error or type(error).__name__)
            return None
        assert isinstance(begun, Grant), "it is new"
        return begun, Journal(self._store, begun.lease)

    async def spec_of(self, session_id: str, principal: str) -> dict[str, Any]:
        """Raises SessionNotFound, StoreUnavailable."""
        return (await self._store.read(session_id, principal, last=0)).metadata


class Journal:
    """The `TurnStore` of one turn. No method raises."""

    def __init__(self, store: SessionStore | None, lease: Lease | None = None) -> None:
        self._store = store
        self._lease = lease
        self._step = 0
        self.lease_s = store.lease_s if store is not None else _FOREVER_S
        #: Called once, if it can't be kept any more.
        self.on_lost: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"Journal({'kept' if self.is_kept else 'not kept'})"

    @property
    def is_kept(self) -> bool:
        """Whether all that was told so far is in it."""
        return self._store is not None

    @property
    def session_id(self) -> str:
        """Empty if it has never been kept."""
        return self._lease.session_id if self._lease is not None else ""

    @property
    def events(self) -> Journal:
        return self

    @property
    def tools(self) -> _NoRecords:
        return _NO_RECORDS

    async def append(self, lease: Lease, events: Sequence[Event]) -> bool:
        return await self._keep(lambda store: store.events.append(lease, events), False)

    async def commit(
        self, lease: Lease, *, expected_version: int, is_step: bool, **what: Any
    ) -> tuple[int, int, int]:
        self._step += is_step
        unkept = (expected_version + 1, self._step, 0)
        return await self._keep(
            lambda store: store.commit(
                lease, expected_version=expected_version, is_step=is_step, **what
            ),
            unkept,
        )

    async def renew(self, lease: Lease) -> bool:
        return await self._keep(lambda store: store.renew(lease), False)

    async def hand_over(self, lease: Lease, *, kept_s: float) -> None:
        await self._keep(lambda store: store.hand_over(lease, kept_s=kept_s), None)

    async def release(self) -> None:
        """The turn was not finished: whoever asks may go on with it."""
        if (lease := self._lease) is not None:
            release = self._keep(
                lambda store: store.release(lease.session_id, lease.principal, lease.nonce), None
            )
            await uncancelled(release, name="release")

    async def _keep(self, write: Callable[[SessionStore], Awaitable[T]], unkept: T) -> T:
        if self._store is None:
            return unkept
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await write(self._store)
        except (AgentError, TimeoutError) as error:
            log.warning("a chat goes on without its journal: %s", error or type(error).__name__)
            self._store = None
            self.on_lost()
            return unkept


class _NoRecords:
    """Only tools that change nothing are run: whoever goes on may run them again."""

    async def begin(
        self, lease: Lease, call_key: str, effect: str, arguments_hash: str, attempt: str
    ) -> ToolStart:
        return ToolStart("RUN")

    async def end(self, lease: Lease, call_key: str, attempt: str, message: Message) -> None:
        """Nobody will ask."""

    async def not_run(self, lease: Lease, call_key: str, attempt: str) -> None:
        """Nobody has asked."""


_NO_RECORDS = _NoRecords()
