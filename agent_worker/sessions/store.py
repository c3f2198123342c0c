"""The session store: sessions, and the turns that run in them, under a lease."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from typing import TYPE_CHECKING, Any, Literal, cast

from agent_worker.errors import (
    IdempotencyMismatch,
    InboxFull,
    LeaseLost,
    SessionFull,
    TurnAbandoned,
    TurnBusy,
    TurnGivenUp,
    TurnInProgress,
)
from agent_worker.sessions.event_log import EventLog, flattened
from agent_worker.sessions.keys import SESSIONS, new_session_id
from agent_worker.sessions.operations import Operations, dump, load, to_ms
from agent_worker.sessions.outbox import Outbox
from agent_worker.sessions.readiness import Readiness
from agent_worker.sessions.records import (
    Answer,
    Grant,
    Lease,
    Nothing,
    NotTaken,
    Queued,
    Replay,
    SessionView,
    Summary,
    turn_text,
)
from agent_worker.sessions.tool_ledger import ToolLedger
from agent_worker.sessions.turn_index import TurnIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent_worker.sessions.client import Client
    from agent_worker.sessions.records import Event, Message, Status

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S
# Of one session; more than anybody retries, and 256 records are about 40 KB.
_MAX_IDEMPOTENCY_KEYS = 256
# A turn in flight learns of the deletion at its next renewal; an hour is far beyond that.
_TOMBSTONE_S = _HOUR_S
# The holder may be done any moment, or be dead until its lease runs out.
_MAX_RETRY_AFTER_S = 5
_MAX_WAITING = 32
# Without progress in between. Twice can be bad luck in a rolling restart; nginx's
# `proxy_next_upstream_tries` and HAProxy's `retries` are commonly 3.
_MAX_DEATHS = 3
# Of messages, as JSON. Beyond it a session is no conversation any more, and a restart of Redis
# would feel it.
_MAX_HISTORY = 64 * 1024 * 1024

Policy = Literal["reject", "enqueue"]


class SessionStore:
    """Sessions in Redis. Every operation names the principal, and none succeeds for another's.

    Raises SessionNotFound (unknown, deleted, foreign), SessionTooNew and StoreUnavailable from
    every operation; the others are named where they occur. The client stays the caller's to close.
    """

    def __init__(
        self,
        client: Client,
        *,
        lease_s: float = 30.0,
        sliding_s: float = _DAY_S,
        absolute_s: float = 30 * _DAY_S,
        idempotency_s: float = _DAY_S,
        max_idempotency_keys: int = _MAX_IDEMPOTENCY_KEYS,
        max_waiting: int = _MAX_WAITING,
        max_history: int = _MAX_HISTORY,
        on_unavailable: Callable[[str], None] = lambda operation: None,
        space: str = SESSIONS,
        index: TurnIndex | None = None,
    ) -> None:
        """`index`: of a store of the same worker, whose heartbeats are for both."""
        self.lease_s = lease_s
        life_s = (sliding_s, absolute_s)
        self._operations = Operations(client, life_s, on_unavailable, space)
        self._run = self._operations.run
        self._limits = (max_waiting, max_history)
        self._giving_up = (_MAX_DEATHS, dump(TurnGivenUp().as_json()))
        self._idempotency = (to_ms(idempotency_s), max_idempotency_keys)
        self.events = EventLog(self._operations)
        self.tools = ToolLedger(self._operations)
        self.outbox = Outbox(self._operations)
        self.index = index or TurnIndex(self._operations)
        self.ping = self._operations.ping
        self.readiness = Readiness(client)

    async def create(
        self,
        principal: str,
        metadata: dict[str, Any],
        *,
        messages: Sequence[Message] = (),
        summary: str = "",
        rest_s: float | None = None,
    ) -> str:
        """A new session; returns its id. `metadata` is kept as it is.

        It begins with `messages`, and `summary` before them, which stands for none. `rest_s`: how
        long it lives while no turn runs, if that is less than its sliding life.
        """
        session_id = new_session_id()
        await self._run(
            "create",
            session_id,
            principal,
            new_nonce(),
            dump(metadata),
            "" if rest_s is None else to_ms(rest_s),
            summary,
            *map(dump, messages),
        )
        return session_id

    async def begin(
        self,
        session_id: str,
        principal: str,
        message: Message | None,
        *,
        nonce: str,
        idempotency_key: str | None = None,
        fingerprint: str = "",
        policy: Policy = "reject",
        silent_s: float | None = None,
    ) -> Grant | Replay | Queued | Nothing:
        """Take the lease and append the user's message, or say why not.

        What waits in the inbox opens the same turn, before `message`; with None only that does.
        `nonce` lets the caller `release` even if it never sees the reply; its part before a dot
        names the worker. `fingerprint` tells whether a repeated key comes with the same request;
        by default the message's content does. A holder that was not heard of for `silent_s` keeps
        nobody from its turn who comes with the turn's key, and a turn that was asked to stop from
        nobody; by default only the end of its lease helps. Raises TurnBusy, TurnInProgress,
        IdempotencyMismatch, TurnAbandoned, InboxFull, SessionFull, LeaseLost; nothing was written
        then. Raises TurnGivenUp.
        """
        if message is not None and not fingerprint:
            fingerprint = hashlib.sha256(message["content"].encode()).hexdigest()
        reply = await self._run(
            "begin",
            session_id,
            principal,
            nonce,
            to_ms(self.lease_s),
            dump(message) if message is not None else "",
            idempotency_key or "",
            fingerprint,
            *self._idempotency,
            policy,
            *self._limits,
            "",
            "" if silent_s is None else to_ms(silent_s),
            *self._giving_up,
        )
        match reply:
            case ["GRANTED" | "RESUME" | "ORPHAN", *_]:
                return _grant(reply, session_id, principal, nonce)
            case ["REPLAY", fence, step, is_final, done_event, turn_event, *texts]:
                messages = load(texts)
                answer = Answer(session_id, int(step), turn_text(messages), is_final == "1")
                return Replay(int(fence), answer, done_event, messages, turn_event)
            case ["QUEUED", waiting]:
                return Queued(int(waiting))
            case ["EMPTY"]:
                return Nothing()
            case _:
                raise _refused_begin(reply)

    async def take_over(
        self, session_id: str, principal: str, turn: str, *, nonce: str, silent_s: float
    ) -> Grant | NotTaken:
        """Go on with the unfinished turn that began with the fence `turn`.

        Its lease is taken if it is free, or if its holder was not heard of for `silent_s`; that
        one can write nothing from then on. A turn whose holders died again and again is ended here
        by an `error`, and over. `nonce` is as in `begin`. Raises LeaseLost when this very attempt
        had the lease, and lost it.
        """
        reply = await self._run(
            "begin",
            session_id,
            principal,
            nonce,
            to_ms(self.lease_s),
            *("", "", ""),
            *self._idempotency,
            "reject",
            *self._limits,
            turn,
            to_ms(silent_s),
            *self._giving_up,
        )
        match reply:
            case ["OVER"]:
                return NotTaken(None)
            case ["HELD", held_ms]:
                return NotTaken(int(held_ms) / 1000)
        return _grant(reply, session_id, principal, nonce)

    async def commit(
        self,
        lease: Lease,
        *,
        expected_version: int,
        commit_id: str,
        messages: Sequence[Message],
        is_step: bool = True,
        ends_turn: bool = False,
        is_final: bool = True,
        notes: dict[str, str] | None = None,
        summary: Summary | None = None,
        events: Sequence[Event] = (),
        settled: Sequence[str] = (),
    ) -> tuple[int, int, int]:
        """Append what was finished; returns the new version, step, and how many messages wait.

        `is_step`: a model's step, not its tools' results. `ends_turn` frees the lease in the same
        write; `is_final` is kept for replays. `events` go to the log with it; `settled` are the
        ledger's keys of calls whose results are among `messages`. A repeated `commit_id` changes
        nothing and returns the stored values. Raises LeaseLost when the lease is not held any
        more or the version is another; nothing is written then.
        """
        reply = await self._run(
            "commit",
            lease.session_id,
            lease.principal,
            lease.value,
            expected_version,
            commit_id,
            int(is_step),
            int(ends_turn),
            int(is_final),
            "" if notes is None else dump(notes),
            *((summary.text, summary.stands_for) if summary is not None else ("", 0)),
            *flattened(events),
            len(settled),
            *settled,
            *map(dump, messages),
        )
        return int(reply[1]), int(reply[2]), int(reply[3])

    async def renew(self, lease: Lease) -> bool:
        """Hold the lease for another `lease_s`; True when asked to stop. Raises LeaseLost."""
        reply = await self._run(
            "renew", lease.session_id, lease.principal, lease.value, to_ms(self.lease_s)
        )
        return bool(reply[1] == "1")

    async def release(
        self, session_id: str, principal: str, nonce: str, *, is_left: bool = False
    ) -> int | None:
        """Free the lease of an unfinished turn; None when it was not held (any more).

        `is_left`: the turn is an orphan, for another worker to go on with. Returns how many
        messages wait.
        """
        try:
            reply = await self._run("release", session_id, principal, nonce, int(is_left))
        except LeaseLost:
            return None
        return int(reply[1])

    async def hand_over(self, lease: Lease, *, kept_s: float) -> None:
        """Leave an unfinished turn to whoever takes it over; for `kept_s` nobody else can begin.

        Raises LeaseLost.
        """
        await self._run("hand_over", lease.session_id, lease.principal, lease.value, to_ms(kept_s))

    async def interrupt(self, session_id: str, principal: str) -> float | None:
        """Ask the turn that runs to stop; the seconds its lease still has, None if none runs."""
        reply = await self._run("interrupt", session_id, principal)
        return int(reply[1]) / 1000 if reply[0] == "OK" else None

    async def read(
        self, session_id: str, principal: str, *, first: int = 0, last: int = -1
    ) -> SessionView:
        """The session with its messages from index `first` to `last` (-1: all).

        Reading it counts as use, so it lives on.
        """
        reply = await self._run("read", session_id, principal, first, last)
        version, step, status, metadata, summary, summary_at, event, waiting, total = reply[1:10]
        return SessionView(
            session_id=session_id,
            version=int(version),
            step=int(step),
            status=cast("Status", status),
            metadata=json.loads(metadata),
            messages=load(reply[10:]),
            total=int(total),
            waiting=int(waiting),
            summary=Summary(summary, int(summary_at)),
            last_event=event,
        )

    async def check(self, session_id: str, principal: str) -> None:
        """Raise SessionNotFound unless the session exists and is the principal's."""
        await self._run("check", session_id, principal)

    async def delete(self, session_id: str, principal: str) -> None:
        """Remove everything of the session; a turn that runs can write nothing more."""
        await self._run("delete", session_id, principal, new_nonce(), to_ms(_TOMBSTONE_S))


def new_nonce() -> str:
    """What tells one attempt from another; 16 random bytes."""
    return secrets.token_urlsafe(16)


def _grant(reply: Sequence[Any], session_id: str, principal: str, nonce: str) -> Grant:
    outcome, fence, version, step, turn_at, notes, summary, summary_at = reply[:8]
    last_event, step_event, emitted, turn_event, *texts = reply[8:]
    return Grant(
        outcome=cast("Any", outcome),
        lease=Lease(session_id, principal, int(fence), nonce),
        version=int(version),
        step=int(step),
        summary=Summary(summary, int(summary_at)),
        history=load(texts),
        turn_at=int(turn_at),
        notes=json.loads(notes),
        last_event=last_event,
        step_event=step_event,
        emitted=emitted,
        turn_event=turn_event,
    )


def _refused_begin(reply: Sequence[Any]) -> Exception:
    match reply:
        case ["BUSY", remaining_ms]:
            return TurnBusy(retry_after_s=_retry_after_s(remaining_ms))
        case ["IN_PROGRESS", remaining_ms, free_in_ms, silent_ms, holder]:
            return TurnInProgress(
                retry_after_s=_retry_after_s(remaining_ms),
                free_in_s=int(free_in_ms) / 1000,
                silent_s=int(silent_ms) / 1000,
                holder=holder,
            )
        case ["GIVEN_UP"]:
            return TurnGivenUp()
        case ["IDEMPOTENCY_MISMATCH"]:
            return IdempotencyMismatch()
        case ["ABANDONED"]:
            return TurnAbandoned()
        case ["INBOX_FULL"]:
            return InboxFull()
        case ["FULL"]:
            return SessionFull()
    return AssertionError(reply[0])


def _retry_after_s(remaining_ms: str | int) -> int:
    return max(1, min(math.ceil(int(remaining_ms) / 1000), _MAX_RETRY_AFTER_S))
