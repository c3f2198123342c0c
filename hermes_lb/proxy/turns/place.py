"""A follower's place in the journal of a turn: behind an event that its client has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from hermes_lb.proxy.turns import event_ids
from hermes_lb.proxy.turns.problems import TurnProblem, result_not_kept
from hermes_lb.turns.ports import End, StoreAway, Trimmed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.tasks import Tasks
    from hermes_lb.turns.ports import Batch, Reading, Record, TurnStore

#: Seconds. A client may have an event that its owner has not journaled yet, or never will.
AHEAD: Final = 2.0
# Seconds that the first batch of a journal is waited for before the head is sent: if the journal
# is trimmed, the answer is a 410 and not a cut.
_FIRST: Final = 0.05


class Place:
    """`await open()`, then `next` until it gives an End. `close` it.

    `after`: the number of the last event that the client has. `ahead`: seconds for which an event
    is waited for that the client has and the journal does not; by default `AHEAD`.
    """

    __slots__ = (
        "_failed",
        "_got",
        "_reading",
        "_receiving",
        "_record",
        "_store",
        "_tasks",
        "after",
        "ahead",
    )

    def __init__(self, store: TurnStore, record: Record, tasks: Tasks) -> None:
        self._store = store
        self._record = record
        self._tasks = tasks
        self._reading: Reading | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._got: Sequence[Batch] | End | None = None  # received, and not yet given
        self._failed: Trimmed | StoreAway | None = None
        self.after = 0
        self.ahead = AHEAD

    def _follow(self, after: int) -> None:
        self.close()
        self.after = after
        self._got = self._failed = None
        self._reading = self._store.follow(self._record, after)

    def close(self) -> None:
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            receiving.cancel()
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    async def next(self) -> Sequence[Batch] | End:
        """As of a `Reading`. Raises Trimmed and StoreAway."""
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            await receiving
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        got, self._got = self._got, None
        if got is not None:
            return got
        assert self._reading is not None
        return await self._reading.next()

    async def stay(self) -> None:
        """As of a `Reading`."""
        if self._reading is not None:
            await self._reading.stay()

    async def _receive(self, reading: Reading) -> None:
        try:
            self._got = await reading.next()
        except (Trimmed, StoreAway) as error:
            self._failed = error

    async def _peek(self, seconds: float) -> Sequence[Batch] | End | None:
        """What the next `next` gives; None: it has not come in time. Raises what that raises."""
        assert self._reading is not None
        work = self._tasks.spawn(self._receive(self._reading), name="first events of a journal")
        self._receiving = work
        await asyncio.wait({work}, timeout=seconds)
        if self._failed is not None:
            raise self._failed
        return self._got

    async def has_more(self) -> bool:
        """Whether the journal of a turn that has ended has more than the client."""
        while True:
            got = await self.next()
            if isinstance(got, End) or got[-1].last > self.after:
                self._got = got
                return not isinstance(got, End)

    def rest_of(self, batch: Batch) -> bytes:
        """The events of `batch` that the client does not have; it has them then."""
        known = self.after - (batch.last - batch.events)
        if known >= batch.events:
            return b""
        self.after = batch.last
        return event_ids.split(batch.data, known) if known > 0 else batch.data

    # Finding it.

    async def open(self, last_event_id: bytes) -> None:
        """Go behind this event; b"": to the start. Raises TurnProblem and StoreAway."""
        try:
            if not last_event_id:
                await self._open_at_start()
            elif not self._record.is_stream:
                raise self._unknown()
            else:
                await self._open_behind(last_event_id)
        except Trimmed:
            raise result_not_kept(self._record.id) from None

    def _unknown(self) -> TurnProblem:
        return TurnProblem(
            409, "unknown_event_id", "the turn has no event with this id", turn=self._record.id
        )

    async def _open_at_start(self) -> None:
        record = self._record
        if not record.is_kept:
            raise Trimmed
        self._follow(0)
        await self._peek(_FIRST)

    async def _open_behind(self, last_event_id: bytes) -> None:
        ours = event_ids.parse(last_event_id)
        if ours is None or ours.turn != self._record.id:
            await self._find(last_event_id)
        elif ours.number == 0:
            await self._open_at_start()
        else:
            await self._check(ours.number)

    async def _check(self, number: int) -> None:
        """Behind event `number`, which the journal has or will have soon."""
        self._follow(number - 1)
        try:
            got = await self._peek(self.ahead)
            if got is None or isinstance(got, End):
                raise self._unknown()
        except Trimmed:  # of the event itself nothing is needed
            self._follow(number)
            await self._peek(_FIRST)
        self.after = number

    async def _find(self, event_id: bytes) -> None:
        """Behind the event with an id of the server's own. In a window it may be one that the
        journal has dropped."""
        self._follow(max(0, self._record.first - 1))
        missing = Trimmed() if self._record.first > 1 else self._unknown()
        assert self._reading is not None
        found = 0
        try:
            async with asyncio.timeout(self.ahead):
                while not found:
                    got = await self._reading.next()
                    if isinstance(got, End):
                        raise missing
                    found = self._look(got, event_id)
        except TimeoutError:
            raise missing from None
        self._follow(found)
        await self._peek(_FIRST)

    def _look(self, batches: Sequence[Batch], event_id: bytes) -> int:
        """The number of the event with this id; 0: it is in none of these batches."""
        found = 0
        for batch in batches:
            if not event_ids.may_have(batch.data, event_id):
                continue
            number = batch.last - batch.events
            for each in event_ids.ids_of(batch.data):
                number += 1
                if each == event_id:
                    if found:
                        raise event_ids.ambiguous(self._record.id)
                    found = number
        return found
