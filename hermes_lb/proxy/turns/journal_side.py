"""The server's side of a request that follows a turn: a journal instead of a connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hermes_lb.proxy.ports import ServerSide
from hermes_lb.turns.ports import End, StoreAway, Trimmed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.http import Body
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import ResponseSink
    from hermes_lb.proxy.turns.place import Place
    from hermes_lb.turns.ports import Batch

# Seconds that a follower waits for a store that is away, and between two attempts: a failover.
_PATIENCE: Final = 10.0
_NEXT_ATTEMPT: Final = 0.25
# Seconds between two signs of a follower whose client does not read (`Reading.stay`).
_STAYS: Final = 2.0


class JournalSide(ServerSide):
    """`start` it when the head has been sent. The exchange's deadlines and its back-pressure are
    those of any response: a client that does not read pauses the reading of the journal."""

    __slots__ = (
        "_context",
        "_may_read",
        "_place",
        "_task",
        "body",
        "is_reused",
        "is_writing_paused",
        "sink",
    )

    def __init__(self, context: Context, place: Place, sink: ResponseSink) -> None:
        self._context = context
        self._place = place
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._task: asyncio.Task[None] | None = None
        self.sink: ResponseSink | None = sink
        self.body: Body | None = None
        self.is_reused = False
        self.is_writing_paused = False

    def __repr__(self) -> str:
        return f"<JournalSide behind {self._place.after}>"

    def start(self) -> None:
        """Read on, until the end."""
        self._task = self._context.tasks.spawn(self._read(), name="journal of a turn")

    async def _read(self) -> None:
        place = self._place
        while self.sink is not None:
            if not self._may_read.is_set():
                await self._until_it_reads()
            try:
                got = await self._next()
            except Trimmed:
                got = End(False, "the journal does not have its next event")
            except StoreAway:
                got = End(False, "the store is away")
            if isinstance(got, End):
                self._ended(got)
                return
            for batch in got:
                if not self._may_read.is_set():
                    await self._until_it_reads()
                if self.sink is None or self.body is None:
                    break
                self.sink.response_data(self, self.body, place.rest_of(batch))

    async def _until_it_reads(self) -> None:
        """The turn must not end as if all of its clients had left."""
        while not self._may_read.is_set():
            try:
                async with asyncio.timeout(_STAYS):
                    await self._may_read.wait()
            except TimeoutError:
                with suppress(StoreAway):
                    await self._place.stay()

    async def _next(self) -> Sequence[Batch] | End:
        give_up_at = self._context.clock() + _PATIENCE
        while True:
            try:
                return await self._place.next()
            except StoreAway:
                if self._context.clock() >= give_up_at:
                    raise
                await asyncio.sleep(_NEXT_ATTEMPT)

    def _ended(self, end: End) -> None:
        sink, body = self.sink, self.body
        if sink is not None and body is not None:
            error = None if end.is_clean else ConnectionError(end.reason or "the turn was cut")
            sink.response_ended(body, error)

    # `ports.ServerSide`.

    @property
    def unsent(self) -> int:
        return 0

    @property
    def has_unwritten(self) -> bool:
        return False

    def expect(self, body: Body) -> None:
        self.body = body

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def give_back(self, now: float, is_clean: bool) -> None:
        self.abort()

    def abort(self) -> None:
        self.sink = self.body = None
        self._place.close()
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def silence(self, now: float) -> float | None:
        return None
