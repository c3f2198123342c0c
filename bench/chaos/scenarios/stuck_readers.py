"""g. Readers that stop reading a large response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.chaos.asks import Ask
from bench.chaos.scenario import Scenario

if TYPE_CHECKING:
    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer

_MB = 1_000_000


@dataclass
class StuckReaders(Scenario):
    """Each asks for a response of 200 MB, and reads nothing of it."""

    name: ClassVar[str] = "stuck-readers"
    title: ClassVar[str] = "g. Stuck readers of a response of 200 MB"

    readers: int = 10
    size: int = 200 * _MB  # bytes
    most_growth: float = 2.0  # MB for all of them; their write buffers are 64 KiB each

    async def run(self, arena: Arena) -> None:
        worker = await arena.worker("agent1")
        async with arena.balancer([worker], timeouts={"client": "10m"}) as balancer:
            await self._warm_up(balancer)
            before = balancer.process.resident_kb() / 1000
            idents = [f"stuck-{number:02}" for number in range(self.readers)]
            blocks = self.size // len(Ask(idents[0]).orders.block(0))
            for ident in idents:
                caller = await balancer.connect(receive_buffer=64 * 1024)
                caller.stop_reading()
                await caller.send(Ask(ident, blocks=blocks).wire())
            await arena.journal.until_stuck(set(idents))
            grown = balancer.process.resident_kb() / 1000 - before
            async with await balancer.connect() as other:
                response = await other.ask(Ask("another"))
            balancer.hang_up()
            await balancer.until_quiet()
            after = balancer.process.resident_kb() / 1000 - before
            left = await arena.journal.until_left(set(idents))
        taken = [each.sent for each in left.values()]
        report = arena.report
        report.figure("readers", self.readers)
        report.figure("a response, MB", blocks * len(Ask(idents[0]).orders.block(0)) / _MB)
        report.figure("the balancer's memory before, MB", before)
        report.figure("... growth with all of them stuck, MB", grown)
        report.figure("... growth after they have left, MB", after)
        report.figure("taken from the worker, most of one response, MB", max(taken) / _MB)
        report.must(
            grown < self.most_growth, f"memory grows by less than {self.most_growth:g} MB", grown
        )
        # What the kernel's buffers hold: up to 6 MB for reading and 4 for writing (tcp_rmem,
        # tcp_wmem), twice, as there are two connections.
        report.must(max(taken) < 0.1 * self.size, "the worker is held back", taken)
        report.must(response.status == 200, "others are served", response)

    async def _warm_up(self, balancer: Balancer) -> None:
        """A few MB that are read, so that what is allocated once is there."""
        async with await balancer.connect() as caller:
            await caller.ask(Ask("warm-up", blocks=200_000))
