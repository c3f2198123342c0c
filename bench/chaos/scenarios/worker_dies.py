"""c. A worker is killed, or stopped, in mid-stream and before its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.chaos.asks import Ask
from bench.chaos.scenario import Scenario
from bench.chaos.stream import Stream

if TYPE_CHECKING:
    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer
    from bench.chaos.caller import Response
    from bench.chaos.workers import Worker

COOKIE = "S"
_THINKS = 600_000  # ms: a request whose answer will not come by itself
_GOES_ON = 20  # events that a stream must still get to count as unharmed


@dataclass
class WorkerDies(Scenario):
    """Streams on three workers, and requests that wait for a head; two of the workers fail."""

    name: ClassVar[str] = "worker-dies"
    title: ClassVar[str] = "c. Workers killed with -9 and stopped with SIGSTOP in mid-stream"

    streams: int = 20  # at each worker
    timeout: float = 1.0  # `timeouts.server`, seconds

    async def run(self, arena: Arena) -> None:
        workers = await arena.workers(3)
        async with arena.balancer(
            workers,
            server={"max_fails": 0},  # the active checks alone shall take it out
            backend={
                "affinity": {"cookie": COOKIE},
                "health": {
                    "path": "/health",
                    "interval": "200ms",
                    "timeout": "300ms",
                    "rise": 2,
                    "fall": 2,
                },
            },
            timeouts={"server": self.timeout},
        ) as balancer:
            streams = [
                await Stream.open(balancer, f"{worker.name}-{n}", pinned_to(worker))
                for worker in workers
                for n in range(self.streams)
            ]
            killed, stopped, unharmed = (
                [stream for stream in streams if stream.worker == worker.name] for worker in workers
            )
            await self._kill(arena, balancer, workers[0], killed, stopped + unharmed)
            await self._stop(arena, balancer, workers[1], stopped, unharmed)
            arena.report.must(
                all(stream.is_right for stream in streams), "each stream is its own request's"
            )

    async def _kill(
        self,
        arena: Arena,
        balancer: Balancer,
        victim: Worker,
        its_own: list[Stream],
        others: list[Stream],
    ) -> None:
        waiting = await self._requests_without_a_head(arena, balancer, victim)
        victim.kill()
        ends = {await stream.until_end() for stream in its_own}
        await _go_on(others)
        statuses = {response.status for response in await asyncio.gather(*waiting)}
        logged = {(await balancer.log_of(stream.ident)).termination for stream in its_own}
        must = arena.report.must
        must(ends == {"cut"}, "kill -9: each of its streams is cut visibly", ends)
        must(logged == {"SD"}, "kill -9: they are logged as SD", logged)
        must(statuses == {502}, "kill -9: a POST that it was executing gets a 502", statuses)
        must(_are_alive(others), "kill -9: the streams of other workers go on")
        await victim.start()
        await balancer.until_server_is(up=True, name=victim.name)
        arena.report.figure("killed: streams cut visibly", len(its_own))
        arena.report.figure("killed: streams of others that went on", len(others))

    async def _stop(
        self,
        arena: Arena,
        balancer: Balancer,
        victim: Worker,
        its_own: list[Stream],
        others: list[Stream],
    ) -> None:
        waiting = await self._requests_without_a_head(arena, balancer, victim)
        victim.freeze()
        try:
            responses = await asyncio.gather(*waiting)
            ends = {await stream.until_end() for stream in its_own}
            await balancer.until_server_is(up=False, name=victim.name)
            elsewhere = await self._served_by(balancer, victim, "out")
        finally:
            victim.thaw()
        await balancer.until_server_is(up=True, name=victim.name)
        again = await self._served_by(balancer, victim, "back")
        lines = [await balancer.log_of(f"{victim.name}-waits-{n}") for n in range(self.streams)]
        cut = {(await balancer.log_of(stream.ident)).termination for stream in its_own}
        statuses = {response.status for response in responses}
        must = arena.report.must
        must(statuses == {504}, "SIGSTOP: a request without a head gets a 504", statuses)
        must(all(line.termination == "sH" for line in lines), "SIGSTOP: logged as sH", lines)
        must(ends == {"cut"}, "SIGSTOP: its streams are cut visibly", ends)
        must(cut == {"sD"}, "SIGSTOP: they are logged as sD", cut)
        must(victim.name not in elsewhere, "SIGSTOP: it is taken out", elsewhere)
        must(again == {victim.name}, "after SIGCONT it is back", again)
        await _go_on(others)
        must(_are_alive(others), "SIGSTOP: the streams of other workers go on")
        arena.report.figure("stopped: 504s", len(responses))
        arena.report.figure("stopped: slowest 504, ms", max(line.took for line in lines))
        arena.report.figure("stopped: streams cut visibly", len(its_own))

    async def _requests_without_a_head(
        self, arena: Arena, balancer: Balancer, worker: Worker
    ) -> list[asyncio.Task[Response]]:
        """POSTs that this worker is executing, and whose answers will not come."""
        asks = [
            Ask(
                f"{worker.name}-waits-{n}",
                "POST",
                wait=_THINKS,
                sends=1,
                fields=(pinned_to(worker),),
            )
            for n in range(self.streams)
        ]
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task((await balancer.connect()).ask(ask)) for ask in asks]
        await arena.journal.until_begun({ask.ident for ask in asks})
        return tasks

    async def _served_by(self, balancer: Balancer, worker: Worker, name: str) -> set[str]:
        """The worker that answers requests whose cookie names this worker."""
        served = set()
        async with await balancer.connect() as caller:
            for n in range(20):
                ask = Ask(f"{name}-{n}", fields=(pinned_to(worker),))
                response = await caller.ask(ask)
                served.add(response.fields.get("x-worker", str(response.status)))
        return served


def pinned_to(worker: Worker) -> str:
    return f"Cookie: {COOKIE}={worker.name}"


async def _go_on(streams: list[Stream]) -> None:
    wanted = [stream.events + _GOES_ON for stream in streams]
    for stream, count in zip(streams, wanted, strict=True):
        await stream.until_events(count)


def _are_alive(streams: list[Stream]) -> bool:
    return not any(stream.end for stream in streams)
