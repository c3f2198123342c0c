"""The session store: every operation is one atomic script in Redis (`lua/`)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import secrets
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import RedisError

from agent_worker.errors import (
    IdempotencyMismatch,
    LeaseLost,
    SessionNotFound,
    SessionTooNew,
    StoreUnavailable,
    TurnAbandoned,
    TurnBusy,
)
from agent_worker.sessions.keys import is_session_id, new_session_id, session_keys
from agent_worker.sessions.records import Answer, Grant, Lease, Replay, SessionView, turn_text
from agent_worker.sessions.scripts import register_scripts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from redis.asyncio import Redis

    from agent_worker.sessions.records import Message, Status

log = logging.getLogger(__name__)

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S
# Above the client's own timeouts and retries on one dead connection, below a client's patience.
_OPERATION_TIMEOUT_S = 5.0
# Of one session; more than anybody retries, and 256 records are about 40 KB.
_MAX_IDEMPOTENCY_KEYS = 256
# A turn in flight learns of the deletion at its next renewal; an hour is far beyond that.
_TOMBSTONE_S = _HOUR_S
# The holder may be done any moment, or be dead until its lease runs out.
_MAX_RETRY_AFTER_S = 5


class SessionStore:
    """Sessions in Redis. Every operation names the principal, and none succeeds for another's.

    Raises SessionNotFound (unknown, deleted, foreign), SessionTooNew and StoreUnavailable from
    every operation; the others are named where they occur.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        lease_s: float = 30.0,
        sliding_s: float = _DAY_S,
        absolute_s: float = 30 * _DAY_S,
        idempotency_s: float = _DAY_S,
        max_idempotency_keys: int = _MAX_IDEMPOTENCY_KEYS,
        on_unavailable: Callable[[str], None] = lambda operation: None,
    ) -> None:
        self.lease_s = lease_s
        self._redis = redis
        self._scripts = register_scripts(redis)
        self._life = (_ms(sliding_s), _ms(absolute_s))
        self._idempotency = (_ms(idempotency_s), max_idempotency_keys)
        self._on_unavailable = on_unavailable
        # So that a log shows a loss once, not once for each request; None: not asked yet.
        self._answers: bool | None = None

    async def create(self, principal: str, metadata: dict[str, Any]) -> str:
        """A new empty session; returns its id. `metadata` is kept as it is."""
        session_id = new_session_id()
        await self._run("create", session_id, principal, new_nonce(), _dump(metadata))
        return session_id

    async def begin(
        self,
        session_id: str,
        principal: str,
        content: str,
        *,
        nonce: str,
        idempotency_key: str | None = None,
    ) -> Grant | Replay:
        """Take the lease and append the user's message, or say why not.

        Raises TurnBusy, IdempotencyMismatch, TurnAbandoned, LeaseLost; nothing was written then.
        `nonce` (from `new_nonce`) lets the caller `release` even if it never sees the reply.
        """
        reply = await self._run(
            "begin",
            session_id,
            principal,
            nonce,
            _ms(self.lease_s),
            _dump({"role": "user", "content": content}),
            idempotency_key or "",
            hashlib.sha256(content.encode()).hexdigest(),
            *self._idempotency,
        )
        match reply:
            case [
                "GRANTED" | "RESUME" | "ORPHAN" as outcome,
                fence,
                version,
                step,
                at,
                notes,
                *msgs,
            ]:
                return Grant(
                    outcome=outcome,
                    lease=Lease(session_id, principal, int(fence), nonce),
                    version=int(version),
                    step=int(step),
                    history=_load(msgs),
                    turn_at=int(at),
                    notes=json.loads(notes),
                )
            case ["REPLAY", fence, step, is_final, *msgs]:
                content = turn_text(_load(msgs))
                answer = Answer(session_id, int(step), content, is_final == "1")
                return Replay(int(fence), answer)
            case ["BUSY" | "IN_PROGRESS", remaining_ms]:
                seconds = math.ceil(int(remaining_ms) / 1000)
                raise TurnBusy(retry_after_s=max(1, min(seconds, _MAX_RETRY_AFTER_S)))
            case ["IDEMPOTENCY_MISMATCH"]:
                raise IdempotencyMismatch
            case ["ABANDONED"]:
                raise TurnAbandoned
            case ["LOST"]:
                raise LeaseLost
        raise AssertionError(reply[0])

    async def commit(
        self,
        lease: Lease,
        *,
        expected_version: int,
        commit_id: str,
        messages: Sequence[Message],
        ends_turn: bool = False,
        is_final: bool = True,
        notes: dict[str, str] | None = None,
    ) -> tuple[int, int]:
        """Append a finished step; returns the new (version, step).

        `ends_turn` frees the lease in the same write; `is_final` is kept for replays. A
        repeated `commit_id` changes nothing and returns the stored values. Raises LeaseLost
        when the lease is not held any more or the version is another; nothing is written then.
        """
        reply = await self._run(
            "commit",
            lease.session_id,
            lease.principal,
            lease.value,
            expected_version,
            commit_id,
            int(ends_turn),
            int(is_final),
            "" if notes is None else _dump(notes),
            *map(_dump, messages),
        )
        if reply[0] != "OK":
            raise LeaseLost
        return int(reply[1]), int(reply[2])

    async def renew(self, lease: Lease) -> None:
        """Hold the lease for another `lease_s`. Raises LeaseLost."""
        reply = await self._run(
            "renew", lease.session_id, lease.principal, lease.value, _ms(self.lease_s)
        )
        if reply[0] != "OK":
            raise LeaseLost

    async def release(self, session_id: str, principal: str, nonce: str) -> bool:
        """Free the lease of an unfinished turn; False when it was not held (any more)."""
        return (await self._run("release", session_id, principal, nonce))[0] == "OK"

    async def read(self, session_id: str, principal: str) -> SessionView:
        """The session as it stands; reading it counts as use, so it lives on."""
        reply = await self._run("read", session_id, principal)
        _, version, step, status, metadata, *messages = reply
        return SessionView(
            session_id=session_id,
            version=int(version),
            step=int(step),
            status=cast("Status", status),
            metadata=json.loads(metadata),
            messages=_load(messages),
        )

    async def check(self, session_id: str, principal: str) -> None:
        """Raise SessionNotFound unless the session exists and is the principal's."""
        await self._run("check", session_id, principal)

    async def delete(self, session_id: str, principal: str) -> None:
        """Remove everything of the session; a turn that runs can write nothing more."""
        await self._run("delete", session_id, principal, new_nonce(), _ms(_TOMBSTONE_S))

    async def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers."""
        async with self._reaching("ping"):
            await self._redis.execute_command("PING")  # type: ignore[no-untyped-call]

    async def _run(self, name: str, session_id: str, principal: str, *args: str | int) -> list[str]:
        if not is_session_id(session_id):
            raise SessionNotFound
        async with self._reaching(name):
            reply: list[str] = await self._scripts[name](
                keys=session_keys(session_id), args=[principal, *self._life, *args]
            )
        match reply[0]:
            case "UNKNOWN" | "FORBIDDEN" | "GONE":
                raise SessionNotFound
            case "NEWER_SCHEMA":
                raise SessionTooNew
        return reply

    @contextlib.asynccontextmanager
    async def _reaching(self, operation: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_OPERATION_TIMEOUT_S):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            if self._answers:
                log.warning("Redis is lost: %s: %s", operation, error or type(error).__name__)
            self._answers = False
            self._on_unavailable(operation)
            raise StoreUnavailable from error
        if self._answers is False:
            log.warning("Redis answers again")
        self._answers = True


def new_nonce() -> str:
    """What tells one attempt from another; 16 random bytes."""
    return secrets.token_urlsafe(16)


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _load(texts: Sequence[str]) -> list[Message]:
    return [json.loads(text) for text in texts]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
