"""What the worker keeps outside of Redis, each behind a protocol of its own.

Every method raises StorageUnavailable when the store behind it cannot be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agent_worker.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent_worker.sessions import Message


class StorageUnavailable(AgentError):
    """A store other than Redis cannot be reached, or refuses to work."""

    status = 503
    code = "storage_unavailable"
    message = "A store that this needs cannot be reached at the moment."
    retry_after_s = 2


class BlobMissing(Exception):
    """There is no such blob (any more)."""


class BlobStore(Protocol):
    """Large texts, content-addressed within their session, written once and never changed."""

    async def put(self, session_id: str, data: bytes) -> str:
        """Keep `data`; returns its key, `<session_id>/<sha256>`. Repeating it is harmless."""
        ...

    async def get(self, key: str) -> bytes:
        """Raises BlobMissing. The caller has checked whose session it is."""
        ...

    async def delete_session(self, session_id: str) -> None:
        """Remove all blobs of the session; none is no error."""
        ...

    async def close(self) -> None: ...


class Preferences(Protocol):
    """A principal's settings, the same in all of its sessions."""

    async def all(self, principal: str) -> Mapping[str, str]: ...

    async def set(self, principal: str, name: str, value: str) -> None: ...

    async def delete(self, principal: str, name: str) -> bool:
        """Whether there was one."""
        ...


@dataclass(frozen=True, slots=True)
class Memory:
    """Something to remember. `score` is the cosine similarity to what was asked, -1 to 1."""

    key: str
    text: str
    score: float = 1.0


class LongTermMemory(Protocol):
    """What a principal's agent remembers across sessions, found by meaning."""

    async def remember(self, principal: str, key: str, text: str) -> None:
        """The same `key` again replaces it, so a repeated call has no second effect."""
        ...

    async def recall(self, principal: str, query: str, *, limit: int = 5) -> Sequence[Memory]:
        """The nearest first; never another principal's."""
        ...

    async def forget(self, principal: str, key: str) -> bool:
        """Whether it was there."""
        ...


class Archive(Protocol):
    """The conversations, for longer than Redis keeps them."""

    async def append(
        self,
        session_id: str,
        principal: str,
        first: int,
        messages: Sequence[Message],
        *,
        fence: int,
    ) -> None:
        """Keep `messages`, the first of which has the index `first`; known ones are left alone.

        `fence` is the session's, under which they were read. Where a message differs from one that
        was kept under a lower fence, Redis has lost that one and all behind it: they are forgotten.
        Where a higher fence was here before, nothing is kept: they may be lost ones themselves.
        """
        ...

    async def read(self, session_id: str, principal: str) -> Sequence[Message]:
        """What has been archived of the principal's session, in order; may be nothing."""
        ...

    async def delete(self, session_id: str) -> None: ...


class OnceLedger(Protocol):
    """A second, strict record of `once` calls, for when Redis may lose its last writes."""

    async def claim(self, session_id: str, call_key: str, arguments_hash: str) -> bool:
        """True for the first claim of this call ever; only then may it run."""
        ...

    async def finish(self, session_id: str, call_key: str, result: str) -> None:
        """Keep what the call gave."""
        ...

    async def result(self, session_id: str, call_key: str, arguments_hash: str) -> str | None:
        """What a claimed call gave; None if nobody knows, or it had other arguments."""
        ...


@dataclass(frozen=True, slots=True)
class Storages:
    """What a worker has beside Redis; None is off."""

    blobs: BlobStore | None = None
    preferences: Preferences | None = None
    memory: LongTermMemory | None = None
    archive: Archive | None = None
    once_ledger: OnceLedger | None = None
