"""The journal of a turn without a session: kept in Redis, so that another worker can continue it.

A chat whose client sends the whole conversation must work without Redis. So a write to the journal
may take `_WRITE_TIMEOUT_S`; after the first failed write the turn continues without a journal, and
can no longer be resumed.

A journal is a session in a key space of its own (`sessions.keys`), which no other endpoint and no
archive reads. It expires after an hour, and `_REST_S` after the end of its turn.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from agent_worker.errors import AgentError
from agent_worker.sessions import Grant, StoreOptions, ToolStart, TurnStore, new_nonce
from agent_worker.sessions.keys import CHATS
from agent_worker.tasks import uncancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agent_worker.sessions import Event, Lease, Message, Part, SessionBackend, SessionStore

T = TypeVar("T")

log = logging.getLogger(__name__)

# Seconds for which a hanging Redis may stall a stream, once.
_WRITE_TIMEOUT_S = 1.0
# Seconds without new journals after one that could not be begun: their streams do not wait.
_PAUSE_S = 2.0
_LIFE_S = 3600.0
# Seconds in which a client can still fetch the last bytes of the answer.
_REST_S = 60.0
# The lease of a turn without a journal: longer than any turn.
_FOREVER_S = 1e9


def chat_store(backend: SessionBackend, sessions: SessionStore) -> SessionStore:
    """The store of journals, for the worker whose sessions are in `sessions`.

    Orphaned chats are not adopted: only their client can continue them. A look at such an entry of
    the index finds no session, and removes the entry.
    """
    options = StoreOptions(
        lease_s=sessions.lease_s, sliding_s=_LIFE_S, absolute_s=_LIFE_S, space=CHATS
    )
    return backend.session_store(options, index=sessions.index)


class Journals:
    def __init__(self, store: SessionStore, worker: str) -> None:
        """`worker`: its name in the leases (`Turns.name`)."""
        self._store = store
        self._worker = worker
        self._not_before = float("-inf")

    async def begin(self, grant: Grant, spec: dict[str, Any]) -> tuple[Grant, Journal] | None:
        """Begin a journal. Returns the turn's grant under its lease; None if Redis fails.

        `spec` is kept for the worker that continues the turn (`spec_of`).
        """
        clock = asyncio.get_running_loop().time
        if clock() < self._not_before:
            return None
        principal, (*before, last) = grant.lease.principal, grant.history
        nonce = f"{self._worker}.{new_nonce()}"
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                session_id = await self._store.create(
                    principal, spec, messages=before, summary=grant.summary.text, rest_s=_REST_S
                )
                begun = await self._store.begin(session_id, principal, last, nonce=nonce)
        except (AgentError, TimeoutError) as error:
            self._not_before = clock() + _PAUSE_S
            log.warning("a chat begins without a journal: %s", error or type(error).__name__)
            return None
        assert isinstance(begun, Grant), "the session is new"
        return begun, Journal(self._store, begun.lease)

    async def spec_of(self, session_id: str, principal: str) -> dict[str, Any]:
        """Raises SessionNotFound, StoreUnavailable."""
        return (await self._store.read(session_id, principal, last=0)).metadata


class Journal(TurnStore):
    """The store of one turn. No method raises."""

    def __init__(self, store: SessionStore | None, lease: Lease | None = None) -> None:
        self._store = store
        self._lease = lease
        self._step = 0
        self.lease_s = store.lease_s if store is not None else _FOREVER_S
        self.events = self
        self.tools = _NO_LEDGER
        #: Called once, when the journal is given up.
        self.on_lost: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"Journal({'kept' if self.is_kept else 'not kept'})"

    @property
    def is_kept(self) -> bool:
        """Whether it has everything that was sent so far."""
        return self._store is not None

    @property
    def session_id(self) -> str:
        """Empty if there never was a journal."""
        return self._lease.session_id if self._lease is not None else ""

    async def append(self, lease: Lease, events: Sequence[Event]) -> bool:
        return await self._keep(lambda store: store.events.append(lease, events), False)

    async def commit(
        self, lease: Lease, part: Part, *, expected_version: int, **what: Any
    ) -> tuple[int, int, int]:
        self._step += part.is_step
        unkept = (expected_version + 1, self._step, 0)
        return await self._keep(
            lambda store: store.commit(lease, part, expected_version=expected_version, **what),
            unkept,
        )

    async def renew(self, lease: Lease) -> bool:
        return await self._keep(lambda store: store.renew(lease), False)

    async def hand_over(self, lease: Lease, *, kept_s: float) -> None:
        await self._keep(lambda store: store.hand_over(lease, kept_s=kept_s), None)

    async def release(self) -> None:
        """The turn was not finished: any worker may continue it."""
        if (lease := self._lease) is not None:
            release = self._keep(
                lambda store: store.release(lease.session_id, lease.principal, lease.nonce), None
            )
            await uncancelled(release, name="release")

    async def _keep(self, write: Callable[[SessionStore], Awaitable[T]], unkept: T) -> T:
        if self._store is None:
            return unkept
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                return await write(self._store)
        except (AgentError, TimeoutError) as error:
            # Another write may have failed meanwhile.
            if self._store is not None:
                self._store = None
                why = str(error) or type(error).__name__
                log.warning("a chat continues without its journal: %s", why)
                self.on_lost()
            return unkept


class _NoLedger:
    """Only `read` tools run in such a turn: they may be run again."""

    async def begin(
        self, lease: Lease, call_key: str, effect: str, arguments_hash: str, attempt: str
    ) -> ToolStart:
        return ToolStart("RUN")

    async def end(self, lease: Lease, call_key: str, attempt: str, message: Message) -> None:
        """Nothing is recorded."""

    async def not_run(self, lease: Lease, call_key: str, attempt: str) -> None:
        """Nothing is recorded."""


_NO_LEDGER = _NoLedger()
