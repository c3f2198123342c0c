"""A client that follows an event stream until it is stopped, or the stream is over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bench.chaos.asks import EVENTS, Ask
from bench.chaos.caller import Caller, Cut
from bench.chaos.waiting import until

if TYPE_CHECKING:
    from bench.chaos.balancer import Balancer

ENDLESS = 1_000_000  # events


class Stream:
    """One event stream. `end` is "" while it lasts; then "cut" (visibly) or "clean"."""

    def __init__(self, caller: Caller, ask: Ask, worker: str) -> None:
        self.caller = caller
        self.ident = ask.ident
        self.worker = worker
        self.events = 0
        self.end = ""
        self._orders = ask.orders
        self._body = bytearray()
        self._task = asyncio.get_running_loop().create_task(self._follow())

    @staticmethod
    def ask(ident: str, *fields: str) -> Ask:
        """For an event every 20 ms, without an end."""
        return Ask(ident, framing=EVENTS, blocks=ENDLESS, pace=20, fields=fields)

    @classmethod
    async def open(cls, balancer: Balancer, ident: str, *fields: str) -> Stream:
        """Return when its first event has come."""
        ask = cls.ask(ident, *fields)
        caller = await balancer.connect()
        await caller.send(ask.wire())
        head = await caller.read_head()
        if head.status != 200:
            raise AssertionError(f"a stream was refused: {head}")
        stream = cls(caller, ask, head.fields["x-worker"])
        await stream.until_events(1)
        return stream

    async def _follow(self) -> None:
        try:
            while block := await self.caller.read_chunk():
                self._body += block
                self.events += 1
            self.end = "clean"
        except Cut:
            self.end = "cut"

    @property
    def is_right(self) -> bool:
        """True if what came is the beginning of this request's answer."""
        expected = b"".join(map(self._orders.block, range(self.events + 1)))
        return expected.startswith(self._body)

    async def until_events(self, count: int) -> None:
        """Wait until it has received this number, or is over."""

        async def is_there() -> bool:
            return self.events >= count or bool(self.end)

        await until(is_there, f"{count} events of {self.ident}")

    async def until_end(self) -> str:
        await until(self._has_ended, f"the end of {self.ident}")
        return self.end

    async def _has_ended(self) -> bool:
        return bool(self.end)

    def leave(self) -> None:
        """FIN."""
        self._task.cancel()
        self.caller.close()
