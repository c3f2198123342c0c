"""The turns of all balancers, in Redis or Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import logging
import secrets
import time
from typing import TYPE_CHECKING, Final

from hermes_lb.tasks import Tasks
from hermes_lb.turns import ports
from hermes_lb.turns.ports import Begun, Fenced, StoreAway, Takeover, TurnStore
from hermes_lb.turns.states import DONE, ENDED
from hermes_lb.turns.store.control import Control
from hermes_lb.turns.store.incarnation import Incarnation
from hermes_lb.turns.store.keys import (
    TurnName,
    incarnation_channel,
    is_turn_id,
    key_of,
    turn_id,
)
from hermes_lb.turns.store.observer import Observer
from hermes_lb.turns.store.owned_turn import Services, StoredOwnedTurn
from hermes_lb.turns.store.quotas import QUOTAS, TOTAL_QUOTAS, Quotas, Totals
from hermes_lb.turns.store.sealing import Sealing
from hermes_lb.turns.store.session_queue import SessionQueue
from hermes_lb.turns.store.shared_work import SharedWork
from hermes_lb.turns.store.stored import StoredTurn, read_stored
from hermes_lb.turns.store.timing import TIMING, Timing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from hermes_lb.turns.ports import Claim, Reading, Record
    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.journals import Journals, OwnedJournal
    from hermes_lb.turns.store.link import Reply
    from hermes_lb.turns.store.subscriber import Subscriber

logger = logging.getLogger("hermes_lb.turns")

_OUTCOMES: Final = {
    "OWNED": ports.OWNED,
    "QUEUED": ports.QUEUED,
    "JOINED": ports.JOINED,
    "MISMATCH": ports.MISMATCH,
    "FOREIGN": ports.MISMATCH,  # digests of two principals that begin alike
    "BUSY": ports.BUSY,
    "OVER_QUOTA": ports.OVER_QUOTA,
}
# Seconds, for `Begun.retry_after` where nothing better is known.
_RETRY_AFTER: Final = 1.0
# Rounds until each running turn has been looked at: a minute, for TTLs of ten. A look costs as much
# as several tokens. An owner is notified of a cancellation, and looks at all of its turns when it
# has lost its subscription.
_ROUNDS: Final = 30
# Seconds between two attempts to log in by a new URL.
_LOGS_IN: Final = 5.0
# Turns that are looked at together.
_AT_ONCE: Final = 64


class StoredTurns(TurnStore):
    """`start` it, then `close` it."""

    def __init__(
        self,
        client: StoreClient,
        journals: Journals,
        subscriber: Subscriber,
        *,
        timing: Timing = TIMING,
        sealing: Sealing | None = None,
        quotas: Quotas = QUOTAS,
        total_quotas: Quotas = TOTAL_QUOTAS,
        clock: Callable[[], float] = time.monotonic,
        on_incarnation: Callable[[str], None] = lambda incarnation: None,
    ) -> None:
        self._client = client
        self._journals = journals
        self._subscriber = subscriber
        self._timing = timing
        self._on_incarnation = on_incarnation
        self._clock = clock
        self._totals = Totals(client, quotas, total_quotas)
        self._tasks = Tasks()
        self._on_orphan: Callable[[str, str], None] = lambda principal, turn: None
        self._look_ups: SharedWork[StoredTurn | None] = SharedWork(self._tasks)
        self._channel = ""
        self._owned: dict[str, StoredOwnedTurn] = {}
        self._taken: set[str] = set()  # that are being taken over
        self._waiters = 0  # of them, at the last look
        self._renewing: asyncio.Task[None] | None = None
        # Operations that have to succeed, in order.
        self._unfinished: list[Callable[[], Awaitable[None]]] = []
        self._control = Control(client, self._wake)
        self._sealing = sealing or Sealing(None)
        self._observer = Observer(client, timing, clock)
        self._incarnation = Incarnation(client, timing, self._on_new_incarnation)
        self._queue = SessionQueue(self._control, self._observer, timing, self.find)
        self._services = Services(
            self._control, self._queue, self._sealing,
            lambda: self._incarnation.id, self._left, self._again,
        )  # fmt: skip

    @property
    def is_reachable(self) -> bool:
        return self._client.is_reachable

    @property
    def incarnation(self) -> str:
        """For `retire`: the supervisor calls it when this process has died."""
        return self._incarnation.id

    def start(self) -> None:
        self._tasks.spawn(self._incarnation.run(), name="beats of the store of turns")
        self._tasks.spawn(self._observer.run(), name="observation of other balancers")
        self._tasks.spawn(self._look_after(), name="own turns in the store")
        self._tasks.spawn(self._listen(), name="channel of this process")

    async def begin(self, claim: Claim) -> Begun:
        name = TurnName(
            turn_id(claim.principal, claim.nonce),
            claim.principal,
            claim.nonce,
            claim.key,
            claim.session,
        )
        if not self.is_reachable:
            raise StoreAway("it could not be reached a moment ago")
        try:
            return await self._begin(name, claim)
        except BaseException:
            # It may have begun all the same: nothing was sent.
            self._again(lambda: self._control.release(name, b""))
            raise

    async def _begin(self, name: TurnName, claim: Claim) -> Begun:
        while True:
            incarnation = await self._incarnation.known()
            quotas = self._totals.quotas(
                len(self._owned), self._waiters, claim.client_turns, claim.client_waiters
            )
            outcome, turn, rest = await self._control.begin(name, claim, incarnation, quotas)
            if outcome == "GONE":
                raise StoreAway("its begin was given up")
            if outcome == "BUSY":
                return Begun(ports.BUSY, None, None, max(_RETRY_AFTER, int(rest[0]) / 1000))
            if not rest:
                return Begun(_OUTCOMES[outcome], None, None, _RETRY_AFTER)
            stored = self._read(turn, rest[0])
            assert stored is not None
            if outcome in ("OWNED", "QUEUED"):
                journal = self._journals.open(name.id, name.nonce, claim)
                owned = self._own(name, stored.record.fence, claim, journal)
                return Begun(_OUTCOMES[outcome], stored.record, owned)
            if not await self._bury(stored):
                return Begun(_OUTCOMES[outcome], stored.record, None)

    async def find(self, principal: str, turn: str) -> Record | None:
        stored = await self._find(principal, turn)
        return None if stored is None else stored.record

    async def find_of_any(self, turn: str) -> Record | None:
        stored = await self._look_up(turn) if is_turn_id(turn) else None
        return None if stored is None else stored.record

    async def find_by_key(self, principal: str, key: str) -> Record | None:
        name = key_of(principal, key)
        turn = await self._client.ask(name, "GET", name)
        return None if turn is None else await self.find(principal, turn.decode())

    async def cancel(self, principal: str, turn: str) -> Record | None:
        stored = await self._find(principal, turn)
        if stored is None:
            return None
        await self._control.cancel(stored.name)
        return await self.find(principal, turn)

    async def take_over(self, claim: Claim, turn: str) -> Takeover | None:
        # Two attempts of one process would go on with the same nonce.
        if turn in self._taken:
            return None
        self._taken.add(turn)
        try:
            return await self._take_over(claim, turn)
        finally:
            self._taken.discard(turn)

    async def _take_over(self, claim: Claim, turn: str) -> Takeover | None:
        stored = await self._find(claim.principal, turn)
        if stored is None or stored.owner or not stored.can_be_taken_over:
            return None
        nonce, _ = await self._journals.fence_off(turn, secrets.token_urlsafe(16), stored.nonce)
        name = stored.name._replace(nonce=nonce)
        incarnation = await self._incarnation.known()

        async def orphan() -> None:
            await self._control.orphan(name, incarnation, nonce)

        try:
            fence = await self._control.take_over(stored.name, incarnation, nonce)
        except Fenced:
            return None
        except BaseException:
            self._again(orphan)
            raise
        try:
            journal, last, tail = await self._journals.adopt(turn, nonce, claim)
        except BaseException:
            self._again(orphan)
            raise
        owned = self._own(name, fence, claim, journal)
        owned.has_started = owned.can_be_taken_over = True
        return Takeover(owned, stored.record.resume_path, last, tail)

    def on_orphan(self, then: Callable[[str, str], None]) -> None:
        self._on_orphan = then

    def follow(self, record: Record, after: int) -> Reading:
        async def find() -> Record | None:
            stored = await self._look_ups.do(record.id, lambda: self._look_up(record.id))
            return None if stored is None else stored.record

        return self._journals.follow(record, after, find)

    def renew(self, url: str) -> None:
        self._client.renew(url)
        if self._renewing is not None:
            self._renewing.cancel()
        self._renewing = self._tasks.spawn(self._report_login(), name="login at the store of turns")

    async def _report_login(self) -> None:
        """An operator who rotates a secret deletes the old one when the log says so."""
        said = ""
        while True:
            try:
                await self._client.try_login()
            except OSError as error:  # TimeoutError is one
                if said != (why := str(error) or "it does not answer"):
                    said = why
                    text = (
                        "the store of turns does not accept its new URL, and is used as before: %s"
                    )
                    logger.warning(text, why)
                await asyncio.sleep(_LOGS_IN)
            else:
                logger.info("the store of turns accepts its new URL")
                return

    async def close(self) -> None:
        await asyncio.gather(*(self._stop(turn) for turn in list(self._owned.values())))
        await self._tasks.cancel_all()
        await self._finish_all()
        with contextlib.suppress(StoreAway):
            await self._incarnation.retire()
        await self._journals.close()
        await self._client.close()

    async def _stop(self, turn: StoredOwnedTurn) -> None:
        with contextlib.suppress(StoreAway, Fenced):
            if turn.can_be_taken_over:
                await turn.orphan()
            elif turn.has_started:
                await turn.lost("owner_stopped")
            else:
                await turn.release(b"")
        turn.journal.refuse()

    async def abandon(self) -> None:
        """End as SIGKILL would, for tests: nothing is written."""
        await self._tasks.cancel_all()
        self._owned.clear()
        await self._journals.close()
        await self._client.close()

    def _look_soon(self, turn: str) -> None:
        owned = self._owned.get(turn)
        if owned is not None:
            owned.wake()
            self._tasks.spawn(owned.look(), name="look at a turn")

    def _own(
        self, name: TurnName, fence: int, claim: Claim, journal: OwnedJournal
    ) -> StoredOwnedTurn:
        owned = StoredOwnedTurn(name, claim, fence, journal, self._services)
        self._owned[name.id] = owned
        return owned

    async def _find(self, principal: str, turn: str) -> StoredTurn | None:
        if not is_turn_id(turn):
            return None
        stored = await self._look_up(turn)
        known = stored.principal if stored is not None else ""
        return stored if hmac.compare_digest(known.encode(), principal.encode()) else None

    async def _look_up(self, turn: str) -> StoredTurn | None:
        while True:
            stored = self._read(turn, await self._control.find(turn))
            if stored is None or not await self._bury(stored):
                return stored

    def _read(self, turn: str, fields: Sequence[Reply]) -> StoredTurn | None:
        """Raises StoreAway if its head is encrypted with another key."""
        stored = read_stored(turn, fields)
        if stored is None or not stored.record.head:
            return stored
        head = self._sealing.open_head(turn, stored.record.head)
        return stored._replace(record=stored.record._replace(head=head))

    async def _bury(self, stored: StoredTurn) -> bool:
        """If its owner is dead, end it, or leave it to another one; then it has changed."""
        is_live = stored.record.state not in ENDED and stored.owner != self._incarnation.id
        if not is_live or not await self._observer.has_died(stored.owner):
            return False
        can_wait = stored.can_be_taken_over and not stored.is_abandoned
        if can_wait and not stored.owner:
            self._on_orphan(stored.principal, stored.record.id)
            return False
        # First the journal: a zombie must not append behind an end that others have seen.
        nonce, is_whole = await self._journals.fence_off(
            stored.record.id, secrets.token_urlsafe(16), stored.nonce
        )
        with contextlib.suppress(Fenced):  # another process was first
            if is_whole:
                await self._finish(stored)
            elif can_wait:
                await self._control.orphan(stored.name, stored.owner, nonce)
            else:
                await self._control.lose(stored.name, stored.owner, "owner_died", nonce)
        return True

    async def _finish(self, stored: StoredTurn) -> None:
        """Its owner has written the end of its journal, and died before it said so."""
        first, last, size = await self._journals.kept(stored.record.id)
        is_trimmed = first != min(1, last)
        await self._control.end(
            stored.name, DONE, "", first=first, last=last, size=size, is_trimmed=is_trimmed
        )

    def _wake(self, incarnation: str, turn: str) -> None:
        if incarnation == self._incarnation.id:
            self._look_soon(turn)
        else:
            self._tasks.spawn(self._publish(incarnation, turn), name="notify a balancer")

    async def _publish(self, incarnation: str, turn: str) -> None:
        with contextlib.suppress(StoreAway):  # it looks by itself
            await self._client.publish(incarnation_channel(incarnation), turn)

    def _left(self, turn: StoredOwnedTurn) -> None:
        self._owned.pop(turn.id, None)
        now = self._clock()
        if turn.kept_size:
            self._totals.store(turn.kept_size, turn.kept_for, now)
        if turn.record_size:
            self._totals.store(turn.record_size, turn.record_kept_for, now)

    def _again(self, operation: Callable[[], Awaitable[None]]) -> None:
        self._unfinished.append(operation)

    def _on_new_incarnation(self) -> None:
        self._tasks.spawn(self._listen(), name="channel of a new incarnation")
        self._tasks.spawn(self._look_at_all(), name="verify own turns")

    async def _listen(self) -> None:
        if self._channel:
            self._subscriber.leave(self._channel, self._notified)
        self._on_incarnation(self._incarnation.id)
        self._channel = incarnation_channel(self._incarnation.id)
        await self._subscriber.listen(self._channel, self._notified, 0.0)

    def _notified(self, turn: bytes) -> None:
        """Another process has granted or cancelled it. b"": some notifications were lost."""
        if turn:
            self._look_soon(turn.decode())
        else:
            self._tasks.spawn(self._look_at_all(), name="look at own turns")

    async def _look_after(self) -> None:
        """Every 2 s: what could not be finished, cancellations, TTLs, limits."""
        for number in itertools.count():
            await asyncio.sleep(self._timing.poll)
            try:
                await self._finish_all()
                await self._look_at(self._due(number))
                self._waiters = sum(turn.is_queued for turn in self._owned.values())
                own = len(self._owned), self._waiters
                await self._totals.update(self._incarnation.id, *own, self._clock())
            except StoreAway:
                pass
            except Exception:  # of a callback; later rounds must take place
                logger.exception("looking after the turns of this process failed")

    async def _finish_all(self) -> None:
        for operation in list(self._unfinished):
            try:
                await operation()
            except StoreAway:
                if not self.is_reachable:
                    break
                continue
            except Fenced:
                pass
            self._unfinished.remove(operation)

    def _due(self, number: int) -> list[StoredOwnedTurn]:
        """The turns of this round: all that wait, and a share of those that run."""
        owned = self._owned.values()
        running = [turn for turn in owned if not turn.is_queued]
        return [turn for turn in owned if turn.is_queued] + running[number % _ROUNDS :: _ROUNDS]

    async def _look_at_all(self) -> None:
        await self._look_at(list(self._owned.values()))

    async def _look_at(self, owned: list[StoredOwnedTurn]) -> None:
        for first in range(0, len(owned), _AT_ONCE):
            await asyncio.gather(*(turn.look() for turn in owned[first : first + _AT_ONCE]))
