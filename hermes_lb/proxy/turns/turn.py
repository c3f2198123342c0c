"""What becomes of a request on a route with turns: it executes its turn, or follows another's.

key, session or id in the request?
  our event id, GET       follows that turn, and never executes anything
  a key or a session      the store is asked: it owns a turn, waits in its session's queue, or
                          joins another request's turn
  neither                 it goes to a server; if that answers with an event stream, the turn
                          begins there
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hermes_lb.errors import InvalidBody, RequestRefused
from hermes_lb.proxy import phases
from hermes_lb.proxy.turns import event_ids, heads
from hermes_lb.proxy.turns.executing import Executing
from hermes_lb.proxy.turns.fingerprint import Fingerprint, plain_body
from hermes_lb.proxy.turns.follower import follow
from hermes_lb.proxy.turns.principal import digest
from hermes_lb.proxy.turns.problems import (
    TurnProblem,
    key_reused,
    not_found,
    outcome_unknown,
    session_busy,
    turn_cancelled,
)
from hermes_lb.proxy.turns.takeover import attend
from hermes_lb.turns import states
from hermes_lb.turns.ports import (
    BUSY,
    JOINED,
    MISMATCH,
    OVER_QUOTA,
    QUEUED,
    Claim,
    Fenced,
    StoreAway,
)

if TYPE_CHECKING:
    from hermes_lb.http import ResponseHead
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import ServerSide, TurnRequest
    from hermes_lb.proxy.stream_rules import StreamRules
    from hermes_lb.proxy.turn_gateway import TurnGateway
    from hermes_lb.turns.ports import Begun, OwnedTurn, Record

# Seconds that the head of a stream waits for its turn to be stored. A store on the same machine
# takes less than one millisecond.
_AT_HEAD: Final = 0.05


class Turn(Executing):
    """A request on a route with turns, other than HEAD, OPTIONS, TRACE and upgrades."""

    __slots__ = (
        "_body",
        "_buffered",
        "_fingerprint",
        "_is_body_read",
        "_is_in_parts",
        "_is_tried",
        "_key",
        "_plain",
        "_principal",
        "_record",
        "_session",
        "_stream",
        "_then",
        "_turns",
    )

    def __init__(
        self, exchange: TurnRequest, context: Context, gateway: TurnGateway, stream: StreamRules
    ) -> None:
        rules = stream.turns
        assert rules is not None
        super().__init__(exchange, context, gateway, rules)
        self._stream = stream
        self._client.passes_resume = stream.resumes
        head = exchange.head
        self._principal = ""
        self._key = ""  # digests
        self._session = ""
        self._is_body_read = head.length == 0
        self._plain = plain_body(head.length)
        self._body: list[bytes] | None = None  # that is read for its session
        self._buffered = 0  # bytes of it that are kept, here or to be sent
        self._is_in_parts = False  # the exchange keeps it, too
        if rules.find_in_body is not None and head.length:
            self._body = []
            self.most_kept = rules.body_buffer + 1
        self._fingerprint: Fingerprint | None = None
        self._is_tried = False  # an unkeyed stream has been offered to the store
        self._then = ""  # what follows the end of the request's body: "claim" or "compare"
        self._record: Record | None = None  # of the turn that it has joined
        self._turns = 0  # that it has claimed, and not joined
        if not rules.repeats:
            head.can_repeat = False  # but for failed dials

    def read_head(self) -> None:
        """Whose request it is, and which one. Raises TurnProblem."""
        exchange, rules = self._exchange, self.rules
        assert exchange is not None
        secret, request_head = self.gateway.secret, exchange.request_head
        self._principal = rules.principals.find(
            secret, request_head, exchange.peer, exchange.client_address
        )
        key = rules.find_key(request_head) if rules.find_key is not None else b""
        if not key and rules.key_required:
            raise TurnProblem(400, "key_required", "an Idempotency-Key is required here")
        session = rules.find_session(request_head) if rules.find_session is not None else b""
        if (key or session) and not self._principal:
            raise _principal_required()
        self._key = self._digest(b"key", key)
        self._session = self._digest(b"session", session)
        # Of each request that has a key, or may name an event of ours.
        if key or exchange.head.method == b"GET":
            self._fingerprint = Fingerprint(secret, exchange.head, request_head)
        if rules.journal:
            exchange.rewrite(heads.with_identity_coding(request_head))

    def _digest(self, kind: bytes, value: bytes) -> str:
        if not value:
            return ""
        return digest(self.gateway.secret, kind, self._principal.encode(), value)

    # The request's body.

    def body_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if self._plain is not None:
            try:
                data = self._plain.feed(data)
            except InvalidBody as error:  # it was checked before; for the type
                exchange.refuse_body(error)
                return
        if self._fingerprint is not None:
            self._fingerprint.add(data)
        if self._body is not None:
            self._buffer(self._body, data)
        if exchange.phase == phases.SEND and exchange.upstream is None:
            exchange.note_traffic()

    def _buffer(self, body: list[bytes], data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        size = len(data)
        if self._buffered + size > self.rules.body_buffer:
            exchange.refuse(RequestRefused(413, "the body is too large to find its session"))
        elif not self.gateway.bodies.has_room(self._address, size):
            self.refuse(
                TurnProblem(503, "body_buffer_full", "too many bodies are read", retry_after=1)
            )
        else:
            body.append(data)
            self._buffered += size
            self.gateway.bodies.add(self._address, size)

    def _forget_body(self) -> None:
        """Nothing of it is kept any more."""
        self._body = None
        if self._buffered:
            self.gateway.bodies.add(self._address, -self._buffered)
            self._buffered = 0

    def body_sent(self) -> None:
        self._forget_body()

    def body_ended(self) -> None:
        self._is_body_read = True
        then, self._then = self._then, ""
        if then == "claim":
            self._claim(self.context.clock())
        elif then == "compare":
            self._joined_body_ended()
        elif self._client.owner is not None and self._fingerprint is not None and self._key:
            self._client.owner.fingerprinted(self._fingerprint.text)
            self._fingerprint = None

    def _wait_for_body(self, then: str) -> None:
        """The client sends the rest; no server has asked for it, so we do."""
        exchange = self._exchange
        assert exchange is not None
        self._then = then
        exchange.ask_for_body()
        exchange.client.resume_reading()
        exchange.enter(phases.SEND, self.context.clock())

    # The claim.

    def begin(self, body: bytes, now: float) -> None:
        exchange = self._exchange
        assert exchange is not None
        if body:
            self.body_received(body)
            self._is_body_read = True
        else:
            self._is_in_parts = True
        if self.exchange is None:  # its body was refused
            return
        attend(self, self._principal, self._stream)
        try:
            resumed = self._resumed_event()
        except TurnProblem as problem:
            self.refuse(problem)
            return
        if resumed is not None:
            exchange.enter(phases.CLAIM, now)
            self.spawn(self._resume(resumed))
        elif self._body is not None and not self._is_body_read:
            self._wait_for_body("claim")
        else:
            self._claim(now)

    def _resumed_event(self) -> event_ids.EventId | None:
        """Our event that a GET wants to go on behind; an EventSource repeats its URL so."""
        exchange = self._exchange
        assert exchange is not None
        if exchange.head.method != b"GET":
            return None
        resumed = event_ids.parse(event_ids.last_event_id(exchange.request_head))
        if resumed is not None and not self._principal:
            raise _principal_required()
        return resumed

    def _claim(self, now: float) -> None:
        exchange = self._exchange
        assert exchange is not None
        if self._body is not None:
            exchange.enter(phases.CLAIM, now)
            self.spawn(self._claim_by_body())
        elif self.rules.session_required and not self._session:
            self.refuse(_session_required())
        elif self._key or self._session:
            exchange.enter(phases.CLAIM, now)
            self.spawn(self._begin())
        else:
            exchange.proceed(now)

    async def _claim_by_body(self) -> None:
        assert self._body is not None
        assert self.rules.find_in_body is not None
        session = self.rules.find_in_body(b"".join(self._body))
        is_read = False
        while not is_read:
            if self.exchange is None:
                return
            # All bodies take turns, one part of one in a loop iteration: other work goes on.
            async with self.gateway.reads_body:
                is_read = session.advance()
                if not is_read:
                    await asyncio.sleep(0)
        exchange = self.exchange
        if exchange is None:
            return
        self._body = None
        if not self._is_in_parts:  # it is small, and a part of the request
            self._forget_body()
        self._session = self._digest(b"session", session.name)
        if self._session and not self._principal:
            raise _principal_required()
        if self.rules.session_required and not self._session:
            raise _session_required()
        if self._key or self._session:
            await self._begin()
        else:
            exchange.proceed(self.context.clock())

    def _make_claim(self) -> Claim:
        is_known = self._fingerprint is not None and self._is_body_read
        return self.rules.claim(
            self._principal,
            key=self._key,
            session=self._session,
            fingerprint=self._fingerprint.text if self._fingerprint and is_known else "",
            client_turns=self.gateway.turns.of(self._address),
            client_waiters=self.gateway.waiters.of(self._address),
        )

    def _count(self, turns: int) -> None:
        """It has this many turns, 0 or 1, of those of its client's address."""
        if turns and self.exchange is None:  # over before it began
            return
        self.gateway.turns.add(self._address, turns - self._turns)
        self._turns = turns

    async def _begin(self) -> None:
        claim = self._make_claim()
        self._count(1)
        begun = await self.gateway.store.begin(claim)
        exchange = self.exchange
        if exchange is None:
            await _release(begun.owned)
            return
        if begun.outcome in (MISMATCH, BUSY, OVER_QUOTA):
            raise _refusal(begun)
        if begun.outcome == JOINED:
            assert begun.record is not None
            await self._join(begun.record)
            return
        assert begun.owned is not None
        owner = self.own(begun.owned, has_key=bool(self._key))
        if self._key and self._is_body_read:
            if not claim.fingerprint:
                assert self._fingerprint is not None
                owner.fingerprinted(self._fingerprint.text)  # the rest has come meanwhile
            self._fingerprint = None
        if begun.outcome == QUEUED:
            await self._wait_for_session(begun.owned)
        exchange = self.exchange
        if exchange is not None:
            if self._session:
                fence = heads.fence_field(begun.owned.fence)
                exchange.rewrite(heads.with_field(exchange.request_head, fence))
            exchange.proceed(self.context.clock())

    async def _wait_for_session(self, owned: OwnedTurn) -> None:
        exchange = self._exchange
        assert exchange is not None
        exchange.enter(phases.SESSION, self.context.clock())
        self.gateway.waiters.add(self._address, 1)
        try:
            await owned.granted()
        except Fenced:  # or the exchange has ended, and released it
            raise turn_cancelled(owned.id) from None
        finally:
            self.gateway.waiters.add(self._address, -1)

    def over(self) -> None:
        super().over()
        self._forget_body()
        self._count(0)

    # Joined.

    async def _join(self, record: Record) -> None:
        """Another request has, or had, the turn of this key."""
        self.follows(record)
        if record.state == states.LOST:
            raise outcome_unknown(record.id, record.reason)
        if record.state == states.CANCELLED:
            raise turn_cancelled(record.id)
        if not self.rules.joins and record.state not in states.ENDED:
            raise TurnProblem(
                409, "in_progress", "a request with this key runs", turn=record.id, retry_after=1
            )
        exchange = self._exchange
        assert exchange is not None
        self._record = record
        exchange.discard_body()
        self._forget_body()
        self._count(0)
        if self._is_body_read:
            await self._follow_joined(record)
            return
        self._wait_for_body("compare")

    def _joined_body_ended(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        assert self._record is not None
        exchange.enter(phases.CLAIM, self.context.clock())
        self.spawn(self._follow_joined(self._record))

    async def _follow_joined(self, record: Record) -> None:
        exchange = self.exchange
        if exchange is None:  # its client has left
            return
        assert self._fingerprint is not None
        position = event_ids.last_event_id(exchange.request_head)
        fingerprint = self._fingerprint.text
        await follow(self, record, position, self.rules, fingerprint=fingerprint)

    # Resumed at its own URL.

    async def _resume(self, resumed: event_ids.EventId) -> None:
        exchange = self.exchange
        if exchange is None:  # its client has left
            return
        assert self._fingerprint is not None
        record = await self.gateway.store.find(self._principal, resumed.turn)
        # Another fingerprint: of another method or target, so not the turn of this URL.
        if record is None or record.fingerprint != self._fingerprint.text:
            raise not_found()
        position = event_ids.last_event_id(exchange.request_head)
        await follow(self, record, position, self.rules)

    # A stream without a key.

    def holds(self, upstream: ServerSide, head: ResponseHead, now: float) -> bool:
        owner, exchange = self._client.owner, self._exchange
        if owner is not None or self._is_tried or not self._principal or exchange is None:
            return False
        if not (self.rules.journal and head.status == 200 and head.length < 0):
            return False
        if not head.has_plain_events:
            return False
        self._is_tried = True
        if exchange.phase != phases.HELD:
            exchange.enter(phases.HELD, now)
        upstream.hold(self._begin_at_head(upstream.server.name))
        return True

    async def _begin_at_head(self, server: str) -> None:
        """The stream goes on without a turn if the store takes too long."""
        work = self.context.tasks.spawn(self._begin_late(server), name="turn of a stream")
        await asyncio.wait({work}, timeout=_AT_HEAD)
        if not work.done() or self._client.owner is None:
            self._client.is_degraded = True
            self._count(0)
            self.count("degraded")

    async def _begin_late(self, server: str) -> None:
        owned = None
        try:
            claim = self._make_claim()
            self._count(1)
            begun = await self.gateway.store.begin(claim)
            owned = begun.owned
            if owned is None:
                return
            await owned.started(server)
        except (StoreAway, Fenced):
            await _release(owned)
            return
        if self.exchange is None or self._client.is_degraded:
            await _release(owned)
            return
        self.own(owned, has_key=False).server = server


async def _release(owned: OwnedTurn | None) -> None:
    """A turn that no request executes."""
    if owned is not None:
        with suppress(StoreAway, Fenced):  # the store repeats it, or it has ended
            await owned.release(b"")


def _refusal(begun: Begun) -> TurnProblem:
    turn = begun.record.id if begun.record is not None else ""
    if begun.outcome == MISMATCH:
        return key_reused(turn)
    if begun.outcome == BUSY:
        return session_busy(begun.retry_after)
    return TurnProblem(
        429, "too_many_turns", "too many turns of one principal", retry_after=begun.retry_after or 1
    )


def _principal_required() -> TurnProblem:
    return TurnProblem(400, "principal_required", "the request has no credential to keep it by")


def _session_required() -> TurnProblem:
    return TurnProblem(400, "session_required", "the request names no session")
