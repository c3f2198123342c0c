"""k. A client leaves; the worker's request is cancelled."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.chaos.asks import Ask
from bench.chaos.report import percentile
from bench.chaos.scenario import Scenario
from bench.chaos.stream import Stream
from bench.chaos.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer
    from bench.chaos.caller import Caller

_THINKS = 600_000  # ms
# Bytes. The balancer stops reading when it holds 64 KiB of what is pipelined. Much more than that
# would fill the kernel's buffer (128 KiB), and a FIN behind a closed window has not arrived at all.
_BEHIND = 100_000
_LARGE = 5_000_000  # blocks: 100 MB, far more than all buffers between worker and client


@dataclass
class Cancelled(Scenario):
    """Clients leave at five points of a request, half of them by FIN and half by RST."""

    name: ClassVar[str] = "client-leaves"
    title: ClassVar[str] = "k. A client leaves: its work is cancelled"

    clients: int = 20  # of each kind
    most: float = 1.0  # seconds until the worker must know

    async def run(self, arena: Arena) -> None:
        workers = await arena.workers(2)
        # No timeout may do what noticing that the client has left should.
        timeouts = dict.fromkeys(("server", "client"), "10m")
        async with arena.balancer(workers, timeouts=timeouts) as balancer:
            for kind, arrive in (
                ("before the head", self._waits_for_a_head),
                ("in mid-stream", self._follows_a_stream),
                ("in its upload", self._uploads),
                ("while it does not read", self._does_not_read),
                ("with more requests behind it", self._has_sent_more),
            ):
                await self._leave(arena, balancer, kind, arrive)

    async def _leave(
        self,
        arena: Arena,
        balancer: Balancer,
        kind: str,
        arrive: Callable[[Arena, Balancer, str], Awaitable[Caller]],
    ) -> None:
        left_at: dict[str, int] = {}
        for number in range(self.clients):
            ident = f"{kind.replace(' ', '-')}-{number}"
            caller = await arrive(arena, balancer, ident)
            left_at[ident] = time.monotonic_ns()
            if number % 2:
                caller.abort()
            else:
                caller.close()
        noticed = await arena.journal.until_left(set(left_at))
        took = [(noticed[ident].at_ns - at) / 1e9 for ident, at in left_at.items()]
        report = arena.report
        report.figure(f"{kind}: noticed after, p50 ms", percentile(took, 0.5) * 1000)
        report.figure(f"{kind}: noticed after, worst ms", max(took) * 1000)
        report.must(
            max(took) <= self.most,
            f"a client that leaves {kind}: the worker knows within {self.most:g} s",
            f"{max(took):.2f} s",
        )

    async def _waits_for_a_head(self, arena: Arena, balancer: Balancer, ident: str) -> Caller:
        caller = await balancer.connect()
        await caller.send(Ask(ident, "POST", wait=_THINKS, sends=1).wire())
        await arena.journal.until_begun({ident})
        return caller

    async def _follows_a_stream(self, arena: Arena, balancer: Balancer, ident: str) -> Caller:
        return (await Stream.open(balancer, ident)).caller

    async def _uploads(self, arena: Arena, balancer: Balancer, ident: str) -> Caller:
        """Half of a body has reached the worker."""
        caller = await balancer.connect()
        wire = Ask(ident, "POST", sends=1000).wire()
        await caller.send(wire[: len(wire) // 2])

        async def has_come() -> bool:
            return ident in arena.journal.arriving()

        await until(has_come, f"the worker has some of {ident}")
        return caller

    async def _does_not_read(self, arena: Arena, balancer: Balancer, ident: str) -> Caller:
        """Buffers are full from here to the worker, so the balancer does not read from either."""
        caller = await balancer.connect(receive_buffer=16 * 1024)
        caller.stop_reading()
        await caller.send(Ask(ident, blocks=_LARGE).wire())
        await arena.journal.until_stuck({ident})
        return caller

    async def _has_sent_more(self, arena: Arena, balancer: Balancer, ident: str) -> Caller:
        """So much that the balancer does not read all of it: the client's FIN is behind that."""
        caller = await self._waits_for_a_head(arena, balancer, ident)
        wire = Ask(f"{ident}-behind").wire()
        await caller.send(wire * (_BEHIND // len(wire)))
        return caller
