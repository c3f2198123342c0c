"""A store of turns in memory, for tests: `MemoryStore` is the server, `MemoryTurnStore` a balancer.

It keeps the contract of `hermes_lb.turns.ports`, as tests/turns/test_store_contract.py shows, and
adds nothing: leases are not observed (`kill` ends a balancer's turns at once), batches are
acknowledged when they are appended, unless `holds_back` is set.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from hashlib import blake2b
from typing import TYPE_CHECKING

from hermes_lb.turns.ports import (
    BUSY,
    HIGH_WATER,
    JOINED,
    MISMATCH,
    OVER_QUOTA,
    OWNED,
    QUEUED,
    Batch,
    Begun,
    Claim,
    End,
    Fenced,
    Journal,
    OwnedTurn,
    Reading,
    Record,
    StoreAway,
    Takeover,
    Trimmed,
    TurnStore,
)
from hermes_lb.turns.states import (
    CANCELLED,
    CANCELLING,
    DONE,
    ENDED,
    FOLLOWED_BY,
    LOST,
    RELEASED,
    RUNNING,
    WAITING,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hermes_lb.turns.ports import TurnWatcher

_RELEASED_KEPT = 60.0
#: Seconds of the lease of a follower.
FOLLOWED = 1.5


class MemoryStore:
    """What several `MemoryTurnStore` share. `is_away`: all of their calls raise StoreAway."""

    def __init__(self) -> None:
        self._is_away = False
        self.unfinished: list[Callable[[], None]] = []  # ends that have to succeed
        self.turns: dict[str, MemoryTurn] = {}
        self.most_turns = 100  # of a principal, not ended
        self.most_waiters = 16  # of a session
        self._keys: dict[tuple[str, str], str] = {}
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._changed = asyncio.Event()

    @property
    def is_away(self) -> bool:
        return self._is_away

    @is_away.setter
    def is_away(self, is_away: bool) -> None:
        self._is_away = is_away
        while self.unfinished and not is_away:
            with contextlib.suppress(Fenced):
                self.unfinished.pop(0)()

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self, timeout: float = 1.0) -> None:
        """Return after the next change of a turn, and after `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()

    def turn(self, turn: str) -> MemoryTurn | None:
        found = self.turns.get(turn)
        if found is not None and found.expires_at <= _now():
            del self.turns[turn]
            return None
        return found

    def by_key(self, principal: str, key: str) -> MemoryTurn | None:
        return self.turn(self._keys.get((principal, key), "")) if key else None

    def session(self, claim: Claim) -> _Session | None:
        if not claim.session:
            return None
        return self._sessions.setdefault((claim.principal, claim.session), _Session())

    def of_principal(self, principal: str) -> list[MemoryTurn]:
        return [each for each in self.turns.values() if each.claim.principal == principal]

    def add(self, turn: MemoryTurn) -> None:
        self.turns[turn.id] = turn
        if turn.claim.key:
            self._keys[turn.claim.principal, turn.claim.key] = turn.id

    def free_key(self, turn: MemoryTurn) -> None:
        """A turn that was to repeat a lost one leaves the key to it."""
        name = (turn.claim.principal, turn.claim.key)
        if self._keys.get(name) == turn.id:
            self._keys[name] = turn.repeats


class _Session:
    def __init__(self) -> None:
        self.holder: MemoryTurn | None = None
        self.fence = 0
        self.settles_at = 0.0
        self.queue: list[MemoryTurn] = []

    @property
    def is_free(self) -> bool:
        return self.holder is None and not self.queue and self.settles_at <= _now()

    def advance(self) -> None:
        """Grant it to the next turn, if it is free."""
        if self.holder is None and self.queue and self.settles_at <= _now():
            self.take(self.queue.pop(0))

    def take(self, turn: MemoryTurn) -> None:
        self.holder = turn
        self.fence = turn.fence = max(self.fence + 1, time.time_ns() // 1000)

    def leave(self, turn: MemoryTurn, settle: float) -> None:
        if turn in self.queue:
            self.queue.remove(turn)
        if self.holder is turn:
            self.holder = None
            self.settles_at = _now() + settle
        self.advance()


class MemoryTurn:
    def __init__(self, owner: MemoryTurnStore, claim: Claim) -> None:
        self.id = turn_id(claim)
        self.shared = owner.shared
        self.owner: MemoryTurnStore | None = owner  # None: it may be taken over
        self.orphaned_at = 0.0
        self.followed_until = 0.0
        self.claim = claim
        self.state = WAITING
        self.fence = time.time_ns() // 1000
        self.fingerprint = claim.fingerprint
        self.head = b""
        self.is_stream = False
        self.reason = ""
        self.server = ""
        self.resume_path = ""
        self.origin = ""
        self.retry = ""
        self.attempt = 1
        self.repeats = ""
        self.not_before = 0.0
        self.begun_at = time.time()
        self.ended_at = 0.0
        self.expires_at = float("inf")
        self.events_expire_at = float("inf")
        self.journal: _Journal | None = None
        self.batches: list[Batch] = []
        self.last = 0
        self.is_trimmed = False
        self.watcher: TurnWatcher | None = None

    @property
    def can_be_taken_over(self) -> bool:
        return self.state == RUNNING and self.is_stream and bool(self.resume_path)

    def orphan(self) -> None:
        self.owner = None
        self.orphaned_at = _now()
        self.shared.wake()

    def enter(self, state: int) -> None:
        """Raises Fenced for a transition that states.FOLLOWED_BY does not have."""
        if state == self.state:
            return  # a repetition
        if state not in FOLLOWED_BY[self.state]:
            raise Fenced(f"{self.state} -> {state}")
        self.state = state
        now, claim = _now(), self.claim
        store = self.shared
        if state in ENDED:
            self.ended_at = time.time()
            self.expires_at = now + (_RELEASED_KEPT if state == RELEASED else claim.keep)
            self.events_expire_at = now + (claim.keep_events if self.is_stream else claim.keep)
            if state == RELEASED:
                store.free_key(self)
            session = store.session(claim)
            if session is not None:
                # A turn that waited was not sent: there is nothing to wait for.
                settles = state in (LOST, CANCELLED) and bool(self.server)
                session.leave(self, claim.settle if settles else 0.0)
        store.wake()

    def record(self) -> Record:
        first = self.batches[0].last - self.batches[0].events + 1 if self.batches else 0
        return Record(
            id=self.id,
            state=self.state,
            fence=self.fence,
            fingerprint=self.fingerprint,
            has_key=bool(self.claim.key),
            head=self.head,
            is_stream=self.is_stream,
            reason=self.reason,
            server=self.server,
            resume_path=self.resume_path,
            first=first if self.state in ENDED else 0,
            last=self.last if self.state in ENDED else 0,
            is_kept=not self.is_trimmed and self.events_expire_at > _now(),
            attempt=self.attempt,
            begun_at=self.begun_at,
            ended_at=self.ended_at,
            origin=self.origin,
            retry=self.retry,
        )


class MemoryTurnStore(TurnStore):
    """A balancer's view. `kill` it as SIGKILL would."""

    def __init__(self, shared: MemoryStore) -> None:
        self.shared = shared
        self._is_dead = False
        self._on_orphan: Callable[[str, str], None] = lambda principal, turn: None

    @property
    def is_reachable(self) -> bool:
        return not self.shared.is_away

    def check(self) -> None:
        if self.shared.is_away or self._is_dead:
            raise StoreAway("it is away")

    def kill(self) -> None:
        """What it owned is lost, or released if it was not sent."""
        self._is_dead = True
        self._end_all("owner_died")

    async def close(self) -> None:
        self._end_all("owner_stopped")

    def look_up(self, turn: str) -> MemoryTurn | None:
        found = self.shared.turn(turn)
        if found is not None and found.owner is None and not _is_over(found):
            is_abandoned = _now() - found.orphaned_at > found.claim.linger
            if is_abandoned or found.state != RUNNING:
                found.reason = "owner_died"
                found.enter(LOST)
            else:
                self._on_orphan(found.claim.principal, turn)
        return found

    def on_orphan(self, then: Callable[[str, str], None]) -> None:
        self._on_orphan = then

    async def take_over(self, claim: Claim, turn: str) -> Takeover | None:
        self.check()
        found = self.shared.turn(turn)
        if found is None or found.claim.principal != claim.principal:
            return None
        if found.owner is not None or not found.can_be_taken_over:
            return None
        found.owner, found.watcher = self, None
        return Takeover(_Owned(self, found), found.resume_path, found.last, found.batches[-32:])

    async def begin(self, claim: Claim) -> Begun:
        self.check()
        store = self.shared
        known = store.by_key(claim.principal, claim.key)
        if known is not None:
            self.look_up(known.id)
        not_before, attempt = 0.0, 1
        if known is not None:
            if claim.fingerprint and known.fingerprint not in ("", claim.fingerprint):
                return Begun(MISMATCH, known.record(), None)
            can_compare = bool(claim.fingerprint) or not known.fingerprint
            is_repeated = claim.repeats_lost and known.state == LOST and known.attempt == 1
            if not is_repeated or not can_compare:
                return Begun(JOINED, known.record(), None)
            not_before = known.expires_at - known.claim.keep + known.claim.settle
            attempt = 2
        open_turns = [each for each in store.of_principal(claim.principal) if not _is_over(each)]
        session = store.session(claim)
        if len(open_turns) >= store.most_turns or (
            session is not None and len(session.queue) >= store.most_waiters
        ):
            return Begun(OVER_QUOTA, None, None, 1.0)
        is_free = session is None or session.is_free
        if session is not None and not is_free and not claim.waits:
            return Begun(BUSY, None, None, max(1.0, session.settles_at - _now()))
        turn = MemoryTurn(self, claim)
        turn.not_before, turn.attempt = not_before, attempt
        if known is not None:
            turn.fence = max(turn.fence, known.fence + 1)
            turn.repeats = known.id
        store.add(turn)
        if session is not None:
            session.queue.append(turn)
            if not_before <= _now():
                session.advance()
        is_queued = not is_free or not_before > _now()
        return Begun(QUEUED if is_queued else OWNED, turn.record(), _Owned(self, turn))

    async def find(self, principal: str, turn: str) -> Record | None:
        self.check()
        found = self.look_up(turn)
        if found is None or found.claim.principal != principal:
            return None
        return found.record()

    async def find_of_any(self, turn: str) -> Record | None:
        self.check()
        found = self.look_up(turn)
        return None if found is None else found.record()

    async def find_by_key(self, principal: str, key: str) -> Record | None:
        self.check()
        found = self.shared.by_key(principal, key)
        return None if found is None else found.record()

    async def cancel(self, principal: str, turn: str) -> Record | None:
        if await self.find(principal, turn) is None:
            return None
        found = self.shared.turns[turn]
        if found.state in (WAITING, RUNNING):
            found.enter(CANCELLED if found.state == WAITING else CANCELLING)
            if found.watcher is not None:
                asyncio.get_running_loop().call_soon(found.watcher.cancel_requested)
        return found.record()

    def follow(self, record: Record, after: int) -> Reading:
        return _Reading(self, record.id, after)

    def _end_all(self, reason: str) -> None:
        for turn in list(self.shared.turns.values()):
            if turn.owner is self and not _is_over(turn):
                watcher = turn.watcher
                if turn.can_be_taken_over:
                    turn.orphan()
                    if watcher is not None:
                        asyncio.get_running_loop().call_soon(watcher.turn_refused)
                    continue
                turn.reason = reason
                turn.enter(RELEASED if turn.state == WAITING else LOST)
                if turn.watcher is not None:
                    asyncio.get_running_loop().call_soon(turn.watcher.turn_refused)


class _Owned(OwnedTurn):
    def __init__(self, balancer: MemoryTurnStore, turn: MemoryTurn) -> None:
        self._balancer = balancer
        self._turn = turn
        self.id = turn.id
        self.journal = turn.journal = _Journal(balancer, turn)

    @property
    def fence(self) -> int:  # type: ignore[override]
        return self._turn.fence

    async def granted(self) -> None:
        turn = self._turn
        session = self._balancer.shared.session(turn.claim)
        while True:
            self._balancer.check()
            if turn.state != WAITING:
                raise Fenced
            later = turn.not_before - _now()
            if later <= 0:
                if session is None or session.holder is turn:
                    return
                if session.holder is not None:
                    self._balancer.look_up(session.holder.id)
                session.advance()
                if session.holder is turn:
                    return
                later = 1.0 if session.holder else session.settles_at - _now()
            await self._balancer.shared.change(later)

    async def started(self, server: str) -> None:
        self._balancer.check()
        self._turn.enter(RUNNING)
        self._turn.server = server

    async def fingerprinted(self, fingerprint: str) -> None:
        self._writable().fingerprint = fingerprint
        self._balancer.shared.wake()

    async def headed(
        self, head: bytes, *, is_stream: bool, resume_path: str = "", origin: str = ""
    ) -> None:
        turn = self._writable()
        turn.head, turn.is_stream, turn.resume_path = head, is_stream, resume_path
        turn.origin = origin
        self._balancer.shared.wake()

    async def retried(self, retry: str) -> None:
        self._writable().retry = retry

    async def done(self) -> None:
        self._end(lambda turn: turn.enter(DONE))

    async def lost(self, reason: str) -> None:
        def lose(turn: MemoryTurn) -> None:
            turn.enter(LOST)
            turn.reason = reason

        self._end(lose)

    async def orphan(self) -> None:
        def orphan(turn: MemoryTurn) -> None:
            if not turn.can_be_taken_over:
                raise Fenced
            turn.orphan()

        self._end(orphan)

    async def is_followed(self) -> bool:
        self._balancer.check()
        return self._turn.followed_until > _now()

    async def cancelled(self) -> None:
        def cancel(turn: MemoryTurn) -> None:
            if turn.state == RUNNING:
                turn.enter(CANCELLING)
            turn.enter(CANCELLED)

        self._end(cancel)

    async def release(self, answer: bytes) -> None:
        def release(turn: MemoryTurn) -> None:
            if turn.state != CANCELLED:
                turn.enter(CANCELLED if turn.state == CANCELLING else RELEASED)
                turn.head = answer

        self._end(release)

    def _end(self, operation: Callable[[MemoryTurn], None]) -> None:
        """Now, or once the store is back."""
        try:
            self._balancer.check()
        except StoreAway:
            self._balancer.shared.unfinished.append(lambda: operation(self._turn))
            raise
        if self._turn.owner is not self._balancer:
            raise Fenced
        operation(self._turn)

    def watch(self, watcher: TurnWatcher) -> None:
        self._turn.watcher = self.journal.watcher = watcher
        if self._turn.state in (CANCELLING, CANCELLED):
            watcher.cancel_requested()

    def _writable(self) -> MemoryTurn:
        self._balancer.check()
        if _is_over(self._turn) or self._turn.owner is not self._balancer:
            raise Fenced
        return self._turn


class _Journal(Journal):
    """`holds_back` stands for a store that does not acknowledge; `flush` ends it."""

    def __init__(self, balancer: MemoryTurnStore, turn: MemoryTurn) -> None:
        self._balancer = balancer
        self._turn = turn
        self.watcher: TurnWatcher | None = None
        self._held: list[tuple[bytes, int]] = []
        self._is_behind = False
        self.holds_back = False

    @property
    def unacknowledged(self) -> int:  # type: ignore[override]
        return sum(len(data) for data, _ in self._held)

    @property
    def is_trimmed(self) -> bool:  # type: ignore[override]
        return self._turn.is_trimmed

    def append(self, data: bytes, events: int) -> None:
        self._held.append((data, events))
        if not self.holds_back:
            self.flush()
        elif self.unacknowledged > HIGH_WATER and not self._is_behind and self.watcher is not None:
            self._is_behind = True
            self.watcher.journal_fell_behind()

    def skip(self) -> None:
        turn = self._turn
        turn.last += 1
        turn.batches.clear()
        turn.is_trimmed = True

    def flush(self) -> None:
        turn, self.holds_back, self._is_behind = self._turn, False, False
        held, self._held = self._held, []
        for data, events in held:
            if _is_over(turn) or turn.owner is not self._balancer:
                if self.watcher is not None:
                    self.watcher.turn_refused()
                return
            turn.last += events
            turn.batches.append(Batch(turn.last, events, data))
            while sum(len(batch.data) for batch in turn.batches) > turn.claim.journal_size:
                turn.batches.pop(0)
                turn.is_trimmed = True
        turn.shared.wake()
        if held and self.watcher is not None:
            self.watcher.journal_caught_up()


class _Reading(Reading):
    def __init__(self, balancer: MemoryTurnStore, turn: str, after: int) -> None:
        self._balancer = balancer
        self._id = turn
        self._after = after

    async def next(self) -> Sequence[Batch] | End:
        while True:
            turn = self._found()
            first = turn.record()._replace(first=0)
            if turn.events_expire_at <= _now():
                raise Trimmed
            begins = turn.batches[0].last - turn.batches[0].events if turn.batches else turn.last
            if turn.is_trimmed and self._after < begins:
                raise Trimmed
            batches = [batch for batch in turn.batches if batch.last > self._after]
            if batches:
                self._after = batches[-1].last
                return batches
            if _is_over(turn):
                return End(first.state == DONE, first.reason)
            await self._balancer.shared.change()

    async def head(self) -> Record:
        while True:
            turn = self._found()
            if turn.head or _is_over(turn):
                return turn.record()
            await self._balancer.shared.change()

    async def stay(self) -> None:
        self._found()

    def close(self) -> None:
        pass

    def _found(self) -> MemoryTurn:
        self._balancer.check()
        turn = self._balancer.look_up(self._id)
        if turn is None:
            raise Trimmed
        if turn.owner is not self._balancer:
            turn.followed_until = _now() + FOLLOWED
        return turn


def turn_id(claim: Claim) -> str:
    """The principal's part, and 128 bits that only the nonce determines."""
    digest = blake2b(claim.nonce.encode(), digest_size=16).digest()
    return claim.principal[:16] + base64.b32encode(digest).decode().rstrip("=").lower()


def _is_over(turn: MemoryTurn) -> bool:
    return turn.state in ENDED


def _now() -> float:
    return asyncio.get_running_loop().time()
