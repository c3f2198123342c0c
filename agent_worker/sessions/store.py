"""The session store on Redis. Each operation is one script (`lua/`)."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from typing import TYPE_CHECKING, Any, cast

from agent_worker.errors import (
    AgentError,
    IdempotencyMismatch,
    InboxFull,
    LeaseLost,
    SessionFull,
    TurnAbandoned,
    TurnBusy,
    TurnGivenUp,
    TurnInProgress,
)
from agent_worker.sessions.base import SessionStore
from agent_worker.sessions.event_log import RedisEventLog, flattened
from agent_worker.sessions.keys import new_session_id
from agent_worker.sessions.operations import Operations, dump, load, to_ms
from agent_worker.sessions.options import DEFAULT_OPTIONS
from agent_worker.sessions.outbox import RedisOutbox
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
from agent_worker.sessions.tool_ledger import RedisToolLedger
from agent_worker.sessions.turn_index import TurnIndex

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent_worker.sessions.base import Policy
    from agent_worker.sessions.client import Client
    from agent_worker.sessions.options import StoreOptions
    from agent_worker.sessions.records import Event, Message, Part, Status

# Seconds. A turn in flight learns of the deletion at its next renewal, long before.
_TOMBSTONE_S = 3600.0
# The holder may finish at any moment, or be dead until its lease expires.
_MAX_RETRY_AFTER_S = 5
# Deaths in a row without progress. A takeover comes 1.25 s after a death: with a kill each second
# four may be bad luck, and with 3 some turns of 200 clients were given up. A turn that kills its
# workers costs that many of them.
_MAX_DEATHS = 5
_REFUSALS: Mapping[str, type[AgentError]] = {
    "GIVEN_UP": TurnGivenUp,
    "IDEMPOTENCY_MISMATCH": IdempotencyMismatch,
    "ABANDONED": TurnAbandoned,
    "INBOX_FULL": InboxFull,
    "FULL": SessionFull,
}


class RedisSessionStore(SessionStore):
    """On `client`, which the caller closes."""

    def __init__(
        self,
        client: Client,
        options: StoreOptions = DEFAULT_OPTIONS,
        *,
        index: TurnIndex | None = None,
    ) -> None:
        self.lease_s = options.lease_s
        self._operations = Operations(client, options)
        self._run = self._operations.run
        self._limits = (options.max_waiting, options.max_history)
        self._giving_up = (_MAX_DEATHS, dump(TurnGivenUp().as_json()))
        self._idempotency = (to_ms(options.idempotency_s), options.max_idempotency_keys)
        self.events = RedisEventLog(self._operations)
        self.tools = RedisToolLedger(self._operations)
        self.outbox = RedisOutbox(self._operations)
        self.index = index or TurnIndex(self._operations)
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
            *self._rules(policy, "", silent_s),
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
        reply = await self._run(
            "begin",
            session_id,
            principal,
            nonce,
            to_ms(self.lease_s),
            *("", "", ""),
            *self._rules("reject", turn, silent_s),
        )
        match reply:
            case ["OVER"]:
                return NotTaken(None)
            case ["HELD", held_ms]:
                return NotTaken(int(held_ms) / 1000)
        return _grant(reply, session_id, principal, nonce)

    def _rules(self, policy: Policy, turn: str, silent_s: float | None) -> Sequence[str | int]:
        silent_ms = "" if silent_s is None else to_ms(silent_s)
        return (*self._idempotency, policy, *self._limits, turn, silent_ms, *self._giving_up)

    async def commit(
        self,
        lease: Lease,
        part: Part,
        *,
        expected_version: int,
        commit_id: str,
        events: Sequence[Event] = (),
    ) -> tuple[int, int, int]:
        summary = part.summary or Summary("", 0)
        reply = await self._operations.run_held(
            "commit",
            lease,
            expected_version,
            commit_id,
            int(part.is_step),
            int(part.ends_turn),
            int(part.is_final),
            "" if part.notes is None else dump(part.notes),
            summary.text,
            summary.stands_for,
            *flattened(events),
            len(part.settled),
            *part.settled,
            *map(dump, part.messages),
        )
        return int(reply[1]), int(reply[2]), int(reply[3])

    async def renew(self, lease: Lease) -> bool:
        reply = await self._operations.run_held("renew", lease, to_ms(self.lease_s))
        return bool(reply[1] == "1")

    async def release(
        self, session_id: str, principal: str, nonce: str, *, is_left: bool = False
    ) -> int | None:
        try:
            reply = await self._run("release", session_id, principal, nonce, int(is_left))
        except LeaseLost:
            return None
        return int(reply[1])

    async def hand_over(self, lease: Lease, *, kept_s: float) -> None:
        await self._operations.run_held("hand_over", lease, to_ms(kept_s))

    async def interrupt(self, session_id: str, principal: str) -> float | None:
        reply = await self._run("interrupt", session_id, principal)
        return int(reply[1]) / 1000 if reply[0] == "OK" else None

    async def read(
        self, session_id: str, principal: str, *, first: int = 0, last: int = -1
    ) -> SessionView:
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
        await self._run("check", session_id, principal)

    async def ping(self) -> None:
        async with self._operations.store_errors("ping"):
            await self._operations.client.ping()

    async def delete(self, session_id: str, principal: str) -> None:
        await self._run("delete", session_id, principal, new_nonce(), to_ms(_TOMBSTONE_S))


def new_nonce() -> str:
    """Identifies an attempt; 16 random bytes."""
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
    return _REFUSALS[reply[0]]()


def _retry_after_s(remaining_ms: str | int) -> int:
    return max(1, min(math.ceil(int(remaining_ms) / 1000), _MAX_RETRY_AFTER_S))
