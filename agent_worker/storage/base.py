"""The protocols of the stores other than Redis.

Every method raises StorageUnavailable if its store cannot be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agent_worker.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent_worker.sessions import Message


class StorageUnavailable(AgentError):
    """A store other than Redis is unreachable, or refuses to work."""

    status, code = 503, "storage_unavailable"
    message = "A store that is needed here is unavailable."
    retry_after_s = 2


class BlobMissing(Exception):
    """The blob does not exist, or no longer."""


class BlobStore(Protocol):
    """Large texts, content-addressed within their session, immutable."""

    async def put(self, session_id: str, data: bytes) -> str:
        """Store `data`; returns its key, `<session_id>/<sha256>`. Idempotent."""

    async def get(self, key: str) -> bytes:
        """Raises BlobMissing. The caller has checked the owner of the session."""

    async def delete_session(self, session_id: str) -> None:
        """Remove all blobs of the session, if there are any."""

    async def close(self) -> None: ...


class Preferences(Protocol):
    """The settings of a principal, for all of its sessions."""

    async def all(self, principal: str) -> Mapping[str, str]: ...

    async def set(self, principal: str, name: str, value: str) -> None: ...

    async def delete(self, principal: str, name: str) -> bool:
        """Whether it existed."""


@dataclass(frozen=True, slots=True)
class Memory:
    """A remembered text. `score` is its cosine similarity to the query, -1 to 1."""

    key: str
    text: str
    score: float = 1.0


class LongTermMemory(Protocol):
    """What the agent of a principal remembers across sessions; semantic search."""

    async def remember(self, principal: str, key: str, text: str) -> None:
        """Store or replace the memory `key`; idempotent."""

    async def recall(self, principal: str, query: str, *, limit: int = 5) -> Sequence[Memory]:
        """The principal's memories that are nearest to `query`, the nearest first."""

    async def forget(self, principal: str, key: str) -> bool:
        """Whether it existed."""


class Archive(Protocol):
    """Conversations, for longer than Redis keeps them."""

    async def append(
        self,
        session_id: str,
        principal: str,
        first: int,
        messages: Sequence[Message],
        *,
        fence: int,
    ) -> None:
        """Store `messages`, the first of which has the index `first`; known ones are skipped.

        `fence` is that of the session when they were read. If a message differs from one that was
        stored under a lower fence, Redis has lost the latter and all after it: these are removed.
        If a higher fence is known, nothing is stored: Redis may have lost these messages.
        """

    async def read(self, session_id: str, principal: str) -> Sequence[Message]:
        """The archived messages of the principal's session, in order; may be empty."""

    async def delete(self, session_id: str) -> None: ...


class OnceLedger(Protocol):
    """A second, strict record of `once` calls, for a Redis that may lose its last writes."""

    async def claim(self, session_id: str, call_key: str, arguments_hash: str) -> bool:
        """True for the first claim of this call; only then may it run."""

    async def finish(self, session_id: str, call_key: str, result: str) -> None:
        """Record the result of the call."""

    async def result(self, session_id: str, call_key: str, arguments_hash: str) -> str | None:
        """The result of a claimed call; None if unknown, or if its arguments differ."""


@dataclass(frozen=True, slots=True)
class Storages:
    """The stores of a worker other than Redis; None is off."""

    blobs: BlobStore | None = None
    preferences: Preferences | None = None
    memory: LongTermMemory | None = None
    archive: Archive | None = None
    once_ledger: OnceLedger | None = None
