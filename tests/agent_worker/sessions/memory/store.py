"""The operations of the store in memory."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from agent_worker.errors import (
    IdempotencyMismatch,
    InboxFull,
    LeaseLost,
    SessionFull,
    SessionNotFound,
    TurnAbandoned,
    TurnBusy,
    TurnGivenUp,
    TurnInProgress,
)
from agent_worker.sessions import (
    Answer,
    Event,
    Grant,
    Lease,
    Nothing,
    NotTaken,
    Queued,
    Replay,
    SessionStore,
    SessionView,
    Summary,
    new_session_id,
    turn_text,
)
from agent_worker.sessions.event_log import channel, event_order
from agent_worker.sessions.operations import dump, load, to_ms
from tests.agent_worker.sessions.memory.event_log import MemoryEventLog
from tests.agent_worker.sessions.memory.outbox import MemoryOutbox
from tests.agent_worker.sessions.memory.session import (
    HANDED,
    HOUR_MS,
    Key,
    Session,
    attempt_of,
    close_open_calls,
    nonce_of,
    worker_of,
)
from tests.agent_worker.sessions.memory.tool_ledger import MemoryToolLedger
from tests.agent_worker.sessions.memory.turn_index import MemoryTurnIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_worker.sessions import Message, Part, StoreOptions
    from agent_worker.sessions.base import Policy
    from agent_worker.sessions.turn_index import TurnIndex
    from tests.agent_worker.sessions.memory.backend import MemoryBackend

MOST_DEATHS = 5
# The latest attempts, turns and commits, by which a repetition is recognised.
KNOWN = 32
GIVEN_UP = dump(TurnGivenUp().as_json())


class AlwaysReady:
    async def problem(self) -> None:
        return None


class MemoryStore(SessionStore):
    def __init__(
        self, backend: MemoryBackend, options: StoreOptions, index: TurnIndex | None
    ) -> None:
        self.backend = backend
        self.options = options
        self.lease_s = options.lease_s
        self.events = MemoryEventLog(self)
        self.tools = MemoryToolLedger(self)
        self.outbox = MemoryOutbox(self)
        self.index = index or MemoryTurnIndex(backend)
        self.readiness = AlwaysReady()  # type: ignore[assignment]

    def owned(self, session_id: str, principal: str) -> Session:
        session = self.backend.find(session_id, self.options.space)
        if session is None or session.owner != principal or session.deleted:
            raise SessionNotFound
        return session

    def held(self, lease: Lease) -> Session:
        session = self.owned(lease.session_id, lease.principal)
        if session.holder(self.now()) != lease.value:
            raise LeaseLost
        return session

    def now(self) -> int:
        return self.backend.now_ms()

    def touch(self, session: Session) -> None:
        session.touch(self.now(), self.options)

    def end_turn(self, session: Session, status: str, notice: str = "ended") -> None:
        """No turn runs any more: the lease is free, and the events expire."""
        session.lease, session.status = "", status
        session.rest_events(self.now())
        self.backend.publish(channel(session.sid), notice)

    async def ping(self) -> None:
        pass

    async def create(
        self,
        principal: str,
        metadata: dict[str, Any],
        *,
        messages: Sequence[Message] = (),
        summary: str = "",
        rest_s: float | None = None,
    ) -> str:
        sid, now = new_session_id(), self.now()
        rest_ms = None if rest_s is None else to_ms(rest_s)
        session = Session(
            sid,
            principal,
            now,
            dump(metadata),
            rest_ms,
            [*map(dump, messages)],
            Summary(summary, 0),
        )
        self.touch(session)
        self.backend.sessions[self.options.space, sid] = session
        return sid

    async def check(self, session_id: str, principal: str) -> None:
        self.owned(session_id, principal)

    async def read(
        self, session_id: str, principal: str, *, first: int = 0, last: int = -1
    ) -> SessionView:
        session = self.owned(session_id, principal)
        texts, count = session.messages, len(session.messages)
        first = first if first >= 0 else max(0, count + first)
        self.touch(session)
        return SessionView(
            session_id=session_id,
            version=session.version,
            step=session.step,
            status=self.status_of(session),
            metadata=json.loads(session.metadata),
            messages=load(texts[first : (last if last >= 0 else count + last) + 1]),
            total=count,
            waiting=len(session.inbox),
            summary=session.summary,
            last_event=session.last_event,
        )

    def status_of(self, session: Session) -> Any:
        is_dead = session.status == "running" and not session.holder(self.now())
        return "interrupted" if is_dead else session.status

    async def delete(self, session_id: str, principal: str) -> None:
        session = self.owned(session_id, principal)
        grave = Session(session_id, session.owner, self.now(), "", None, [], Summary("", 0))
        grave.deleted, grave.expires = True, self.now() + HOUR_MS
        self.backend.sessions[self.options.space, session_id] = grave
        self.backend.publish(channel(session_id), "ended")

    # Begin.

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
        session = self.owned(session_id, principal)
        if (repeated := self._repeated(session, nonce)) is not None:
            return repeated
        if message is not None and not fingerprint:
            fingerprint = hashlib.sha256(message["content"].encode()).hexdigest()
        now = self.now()
        stale = float("inf") if silent_s is None else to_ms(silent_s)
        lease = session.holder(now)
        name = idempotency_key or (f" {nonce}" if policy == "enqueue" else "")
        key = session.keys.get(name) if name else None
        if key is not None:
            if key.fingerprint != fingerprint:
                raise IdempotencyMismatch
            if key.replay is not None:
                return key.replay
            if key.state == "queued":
                if lease:
                    return Queued(len(session.inbox))
                message = None
            elif name == f" {nonce}":
                return Queued(len(session.inbox))
            else:
                return self._resume_own(session, nonce, key, stale)
        if lease and session.is_asked_to_stop and session.silence(now) >= stale:
            lease = ""
        if message is not None and session.size >= self.options.max_history:
            raise SessionFull
        if lease:
            if policy != "enqueue" or message is None:
                raise TurnBusy(retry_after_s=1)
            if len(session.inbox) >= self.options.max_waiting:
                raise InboxFull
            session.inbox.append((dump(message), name, fingerprint))
            self._keep_key(session, name, Key(fingerprint, "queued", now))
            self.touch(session)
            return Queued(len(session.inbox))
        opening = list(session.inbox)
        if message is not None:
            opening.append((dump(message), name, fingerprint))
        if not opening:
            return Nothing()
        outcome = "GRANTED" if session.status == "idle" else "ORPHAN"
        return self._open(session, nonce, outcome, opening)

    async def take_over(
        self, session_id: str, principal: str, turn: str, *, nonce: str, silent_s: float
    ) -> Grant | NotTaken:
        session = self.owned(session_id, principal)
        if (repeated := self._repeated(session, nonce)) is not None:
            return repeated
        state, silence = session.state_of(int(turn), self.now())
        if state == "over":
            return NotTaken(None)
        if state == "stopping" or (state == "held" and silence < to_ms(silent_s)):
            return NotTaken(silent_s - silence / 1000)
        try:
            return self._resume(session, nonce)
        except TurnGivenUp:
            return NotTaken(None)

    def _repeated(self, session: Session, nonce: str) -> Grant | None:
        """The grant of an attempt that asks again. Raises LeaseLost if it has lost its turn."""
        if session.turn_nonce == nonce and nonce_of(session.holder(self.now())) == nonce:
            return self._grant(session, session.turn_outcome)
        if session.turn_nonce == nonce or attempt_of(nonce) in session.begun:
            raise LeaseLost
        return None

    def _resume_own(self, session: Session, nonce: str, key: Key, stale: float) -> Grant:
        """The turn of a repeated key that has not finished."""
        if key.turn_at != session.turn_at or session.status == "idle":
            raise TurnAbandoned
        if session.deaths[0] > MOST_DEATHS:
            raise TurnGivenUp
        now = self.now()
        state, silence = session.state_of(session.turn, now)
        is_free = state == "free" or (state == "held" and silence >= stale)
        if session.holder(now) and not is_free:
            left = min(session.lease_until - now, stale - silence)
            raise TurnInProgress(
                retry_after_s=1,
                free_in_s=left / 1000,
                silent_s=silence / 1000,
                holder=worker_of(session.holder(now)),
            )
        return self._resume(session, nonce)

    def _resume(self, session: Session, nonce: str) -> Grant:
        is_handed = nonce_of(session.holder(self.now())).startswith(HANDED)
        has_died = session.status == "running" and not is_handed
        self._raise_fence(session)
        if event_order(session.last_event)[0] < session.turn:
            session.turn_first = f"{session.fence}-1"
        if has_died and self._deaths(session) > MOST_DEATHS:
            self._log(session, [Event(f"{session.fence}-1", "error", GIVEN_UP)])
            session.has_failed, session.turn_nonce = True, ""
            self.end_turn(session, "interrupted")
            self.touch(session)
            raise TurnGivenUp
        return self._take(session, nonce, "RESUME")

    def _deaths(self, session: Session) -> int:
        count, step, most_said = session.deaths
        said = len(session.emitted().encode())
        if step != session.step_event or said > most_said:
            count = 0
        session.deaths = (count + 1, session.step_event, said)
        return count + 1

    def _open(
        self, session: Session, nonce: str, outcome: str, opening: list[tuple[str, str, str]]
    ) -> Grant:
        self._raise_fence(session)
        if outcome == "ORPHAN":
            close_open_calls(session)
        session.turn_at = len(session.messages)
        session.turn_keys = [name for _, name, _ in opening if name]
        session.messages += [text for text, _, _ in opening]
        session.inbox = []
        for _, name, fingerprint in opening:
            if name:
                key = Key(fingerprint, "running", self.now(), session.turn_at)
                self._keep_key(session, name, key)
        session.turn, session.step_event = session.fence, f"{session.fence}-0"
        session.turn_first, session.turn_before = f"{session.fence}-1", session.last_event
        session.turns = [*session.turns, session.fence][-KNOWN:]
        session.deaths = (0, "", 0)
        return self._take(session, nonce, outcome)

    def _take(self, session: Session, nonce: str, outcome: str) -> Grant:
        session.status, session.turn_nonce, session.turn_outcome = "running", nonce, outcome
        session.lease, session.lease_ms = f"{session.fence}|{nonce}", to_ms(self.lease_s)
        session.lease_until = self.now() + session.lease_ms
        session.begun = [*session.begun, attempt_of(nonce)][-KNOWN:]
        session.has_failed = session.is_asked_to_stop = session.is_left = False
        self.touch(session)
        return self._grant(session, outcome)

    def _raise_fence(self, session: Session) -> None:
        session.fence = max(session.fence + 1, self.now())
        session.version += 1

    def _keep_key(self, session: Session, name: str, key: Key) -> None:
        if name not in session.keys and len(session.keys) >= self.options.max_idempotency_keys:
            session.forget_keys(self.now(), self.options)
        session.keys[name] = key

    def _grant(self, session: Session, outcome: Any) -> Grant:
        fence, _, nonce = session.lease.partition("|")
        return Grant(
            outcome=outcome,
            lease=Lease(session.sid, session.owner, int(fence), nonce),
            version=session.version,
            step=session.step,
            summary=session.summary,
            history=load(session.messages[session.summary.stands_for :]),
            turn_at=session.turn_at,
            notes=json.loads(session.notes),
            last_event=session.last_event,
            step_event=session.step_event,
            emitted=session.emitted() if outcome == "RESUME" else "",
            turn_event=f"{session.turn}-0",
        )

    def _log(self, session: Session, events: Sequence[Event]) -> None:
        session.log(events)
        if events:
            self.backend.publish(channel(session.sid), "events")

    # Under the lease.

    async def commit(
        self,
        lease: Lease,
        part: Part,
        *,
        expected_version: int,
        commit_id: str,
        events: Sequence[Event] = (),
    ) -> tuple[int, int, int]:
        session = self.owned(lease.session_id, lease.principal)
        if (known := session.commits.get(commit_id)) is not None:
            return *known, len(session.inbox)
        if self.held(lease).version != expected_version:
            raise LeaseLost
        self._log(session, events)
        for call_key in part.settled:
            session.tools.pop(call_key, None)
        session.messages += map(dump, part.messages)
        session.version += 1
        session.step += part.is_step
        session.step_event = session.last_event
        session.commits[commit_id] = session.version, session.step
        session.commits = dict(list(session.commits.items())[-KNOWN:])
        session.notes = dump(part.notes) if part.notes is not None else session.notes
        session.summary = part.summary or session.summary
        if part.ends_turn:
            self._settle_keys(session, part.is_final)
            self.end_turn(session, "idle")
        self.touch(session)
        return session.version, session.step, len(session.inbox)

    def _settle_keys(self, session: Session, is_final: bool) -> None:
        messages = load(session.messages[session.turn_at :])
        answer = Answer(session.sid, session.step, turn_text(messages), is_final)
        turn = f"{session.turn}-0"
        for name in session.turn_keys:
            if (key := session.keys.get(name)) is not None:
                key.state, key.at = "done", self.now()
                key.replay = Replay(session.fence, answer, session.last_event, messages, turn)

    async def renew(self, lease: Lease) -> bool:
        session = self.held(lease)
        session.lease_until = self.now() + to_ms(self.lease_s)
        return session.is_asked_to_stop

    async def hand_over(self, lease: Lease, *, kept_s: float) -> None:
        handed = f"{lease.fence}|{HANDED}{lease.nonce}"
        if self.owned(lease.session_id, lease.principal).holder(self.now()) == handed:
            return
        session = self.held(lease)
        session.lease, session.lease_until = handed, self.now() + to_ms(kept_s)
        session.version += 1
        self.touch(session)
        self.backend.publish(channel(session.sid), "handed")

    async def release(
        self, session_id: str, principal: str, nonce: str, *, is_left: bool = False
    ) -> int | None:
        session = self.owned(session_id, principal)
        lease = session.holder(self.now())
        if not lease and session.status == "interrupted" and session.turn_nonce == nonce:
            return len(session.inbox)
        if not lease or nonce_of(lease) != nonce:
            return None
        session.is_left = session.is_left or is_left
        session.version += 1
        self.end_turn(session, "interrupted")
        self.touch(session)
        return len(session.inbox)

    async def interrupt(self, session_id: str, principal: str) -> float | None:
        session = self.owned(session_id, principal)
        if not (lease := session.holder(self.now())):
            return None
        session.is_asked_to_stop = True
        worker = nonce_of(lease).partition(".")[0]
        self.backend.publish(f"hermes:worker:{worker}", f"{session_id} {lease}")
        return (session.lease_until - self.now()) / 1000
