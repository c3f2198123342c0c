"""The settings of a session store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_worker.sessions.keys import SESSIONS

if TYPE_CHECKING:
    from collections.abc import Callable

_DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Settings of a store. Times are in seconds."""

    lease_s: float = 30.0
    #: Life of a session after its last use, and at most.
    sliding_s: float = _DAY_S
    absolute_s: float = 30 * _DAY_S
    idempotency_s: float = _DAY_S
    #: Of one session: more than any client retries, and 256 records are about 40 KB.
    max_idempotency_keys: int = 256
    #: Queued messages of one session.
    max_waiting: int = 32
    #: Bytes of messages as JSON. A larger session would slow down a restart of Redis.
    max_history: int = 64 * 1024 * 1024
    #: Called with the name of each operation that the store did not answer.
    on_unavailable: Callable[[str], None] = lambda operation: None
    #: See `keys`.
    space: str = SESSIONS


DEFAULT_OPTIONS = StoreOptions()
