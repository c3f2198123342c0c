"""g. Readers that stop reading a large response."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.chaos.asks import Ask
from bench.chaos.scenario import Scenario

if TYPE_CHECKING:
    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer

_MB = 1_000_000
_OURS = _MB  # what a balancer may hold of one response: generous, and little beside the kernel's


def kernel_holds() -> int:
    """Bytes of a response between a worker that writes and a client that does not read.

    The worker's and the balancer's send buffers, and the balancer's receive buffer: the kernel lets
    each grow up to the last number of tcp_wmem and tcp_rmem.
    """
    folder = Path("/proc/sys/net/ipv4")
    receive, send = (
        int((folder / name).read_text().split()[-1]) for name in ("tcp_rmem", "tcp_wmem")
    )
    return receive + 2 * send


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
        report.figure("what the kernel may hold of one, MB", kernel_holds() / _MB)
        report.must(
            grown < self.most_growth, f"memory grows by less than {self.most_growth:g} MB", grown
        )
        most = kernel_holds() + _OURS
        report.must(
            most < self.size / 2, "a response is far larger than the kernel's buffers", most
        )
        report.must(max(taken) < most, "the worker is held back", (max(taken), most))
        report.must(response.status == 200, "others are served", response)

    async def _warm_up(self, balancer: Balancer) -> None:
        """A few MB that are read, so that what is allocated once is there."""
        async with await balancer.connect() as caller:
            await caller.ask(Ask("warm-up", blocks=200_000))
