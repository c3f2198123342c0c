"""h. Slow clients: thousands of slow heads, and bodies and readers that are slow or stand still."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.chaos.asks import Ask
from bench.chaos.caller import Cut, Response
from bench.chaos.report import percentile
from bench.chaos.scenario import Scenario
from bench.chaos.scenarios.mix_up import what_is_wrong

if TYPE_CHECKING:
    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer
    from bench.chaos.caller import Caller

_HEAD = b"GET / HTTP/1.1\r\nHost: chaos.test\r\nX-Slow: " + b"s" * 1000
_BATCH = 100  # connections that are opened at once
_EACH = 1.0  # s between two bytes of one slow client
_GRACE = 1.0  # s; a 408 comes at most so much after `request_head`
# Of 200 bytes each, as the id is as long: 20 MB, more than the kernel's buffers hold.
_LARGE = 100_000  # blocks
_LONG = "x" * 180
_LITTLE = 200_000  # bytes


@dataclass
class SlowHeads(Scenario):
    """Slowloris: each client sends a byte of its head a second, and never gets to the end."""

    name: ClassVar[str] = "slow-heads"
    title: ClassVar[str] = "h. Slowloris, beside a client that behaves"

    clients: int = 2000
    request_head: float = 5.0  # seconds
    seconds: float = 3.0  # of the well-behaved client's measurement, each time

    async def run(self, arena: Arena) -> None:
        workers = await arena.workers(2)
        async with arena.balancer(
            workers, timeouts={"request_head": f"{self.request_head}s"}
        ) as balancer:
            before = await self._well_behaved(balancer, "before")
            memory = balancer.process.resident_kb()
            slow = await self._open(balancer)
            memory = (balancer.process.resident_kb() - memory) / self.clients
            dribbling = asyncio.get_running_loop().create_task(_dribble(slow))
            reading = [asyncio.get_running_loop().create_task(_answer(caller)) for caller in slow]
            during = await self._well_behaved(balancer, "during")
            answers = await asyncio.gather(*reading)
            dribbling.cancel()
            await balancer.until_metric(
                "hermes_lb_connections", lambda count: count == 0, "all slow ones are closed"
            )
            late = await balancer.loop_lag() or 0.0
            self._judge(arena, balancer, before, during, answers, memory, late)

    def _judge(
        self,
        arena: Arena,
        balancer: Balancer,
        before: list[float],
        during: list[float],
        answers: list[int],
        memory: float,
        late: float,
    ) -> None:
        took = [line.took / 1000 for line in balancer.log_lines() if line.termination == "cR"]
        figure, must = arena.report.figure, arena.report.must
        figure("slow clients", self.clients)
        figure("the balancer's memory for each, KB", memory)
        for name, took_ms in (("without them", before), ("beside them", during)):
            figure(f"a good client {name}: requests", len(took_ms))
            figure(f"a good client {name}: p50 ms", percentile(took_ms, 0.5) * 1000)
            figure(f"a good client {name}: p99 ms", percentile(took_ms, 0.99) * 1000)
        figure("408 after, fastest and slowest s", f"{min(took):.2f} - {max(took):.2f}")
        must(set(answers) == {408}, "each slow client gets a 408", set(answers))
        must(len(took) == self.clients, "each is logged as cR", len(took))
        must(min(took) >= self.request_head, "... not before request_head", min(took))
        # A balancer that the kernel keeps from its core can't be in time: it knows how late it was.
        must(
            max(took) <= self.request_head + _GRACE + late,
            f"... within request_head + {_GRACE:g} s, by the balancer's own clock",
            (max(took), late),
        )

    async def _open(self, balancer: Balancer) -> list[Caller]:
        slow: list[Caller] = []
        while len(slow) < self.clients:
            count = min(_BATCH, self.clients - len(slow))
            slow += await asyncio.gather(*(balancer.connect() for _ in range(count)))
            for caller in slow[-count:]:
                caller.write(_HEAD[:1])
        await balancer.until_metric(
            "hermes_lb_connections", lambda count: count >= self.clients, "all are connected"
        )
        return slow

    async def _well_behaved(self, balancer: Balancer, name: str) -> list[float]:
        """How long its requests take, in seconds; each is checked."""
        took: list[float] = []
        until = time.monotonic() + self.seconds
        async with await balancer.connect() as caller:
            while time.monotonic() < until:
                ask = Ask(f"{name}-{len(took)}", blocks=10)
                began = time.perf_counter()
                response = await caller.ask(ask)
                took.append(time.perf_counter() - began)
                if problem := what_is_wrong(ask, response):
                    raise AssertionError(problem)
                await asyncio.sleep(0.002)
        return took


async def _dribble(slow: list[Caller]) -> None:
    """A byte for each of them every second, evenly spread."""
    slots = 100
    for position in range(1, len(_HEAD)):
        for slot in range(slots):
            for caller in slow[slot::slots]:
                caller.write(_HEAD[position : position + 1])
            await asyncio.sleep(_EACH / slots)


async def _answer(caller: Caller) -> int:
    """-> the status that it got before its connection was closed."""
    response = await caller.read_response()
    while await caller.read_some():
        pass
    return response.status


@dataclass
class SlowBodies(Scenario):
    """Uploads and downloads that take longer than any timeout but move, and some that do not."""

    name: ClassVar[str] = "slow-bodies"
    title: ClassVar[str] = "h, k. Slow uploads and slow readers"

    clients: int = 4  # of each kind
    timeout: float = 2.0  # `timeouts.client`, seconds

    async def run(self, arena: Arena) -> None:
        workers = await arena.workers(2)
        async with arena.balancer(
            workers, timeouts={"client": f"{self.timeout}s", "server": "10m"}
        ) as balancer:
            kinds = (self._slow_body, self._slow_read, self._stalled_body, self._stalled_read)
            found = await asyncio.gather(
                *(kind(balancer, f"{n}") for kind in kinds for n in range(self.clients))
            )
            await self._judge(arena, balancer, [problem for problem in found if problem])

    async def _judge(self, arena: Arena, balancer: Balancer, problems: list[str]) -> None:
        must = arena.report.must
        must(
            not problems,
            "a slow client is served, and one that stands still is answered",
            problems[:5],
        )
        wanted = (
            ("slow-body", "--"),
            ("slow-read", "--"),
            ("stalled-body", "cH"),
            ("stalled-read", "cD"),
        )
        for kind, termination in wanted:
            lines = [await balancer.log_of(f"{kind}-{n}") for n in range(self.clients)]
            must(
                {line.termination for line in lines} == {termination},
                f"{kind}: logged as {termination}",
                lines,
            )
            took = [line.took / 1000 for line in lines]
            arena.report.figure(f"{kind}: took, s", f"{min(took):.2f} - {max(took):.2f}")

    async def _slow_body(self, balancer: Balancer, number: str) -> str:
        """A piece every quarter of the timeout, for twice the timeout."""
        ask = Ask(f"slow-body-{number}", "POST", sends=64)
        wire = ask.wire()
        size = len(wire) // 8 + 1
        async with await balancer.connect() as caller:
            for start in range(0, len(wire), size):
                await caller.send(wire[start : start + size])
                await asyncio.sleep(self.timeout / 4)
            return what_is_wrong(ask, await caller.read_response())

    async def _slow_read(self, balancer: Balancer, number: str) -> str:
        """A little of a large response at a time, for twice the timeout; then all of the rest."""
        ask = Ask(f"{_LONG}-slow-read-{number}", blocks=_LARGE)
        body = bytearray()
        async with await balancer.connect(receive_buffer=64 * 1024) as caller:
            await caller.send(ask.wire())
            head = await caller.read_head()
            until = time.monotonic() + 2 * self.timeout
            while data := await caller.read_some(_LITTLE):
                body += data
                if len(body) == ask.orders.length:
                    break
                if time.monotonic() < until:
                    await asyncio.sleep(self.timeout / 20)
        response = Response(head.status, head.fields, bytes(body))
        # In a thread: megabytes take a while to compare, and the others must not stop reading.
        return await asyncio.to_thread(what_is_wrong, ask, response)

    async def _stalled_body(self, balancer: Balancer, number: str) -> str:
        wire = Ask(f"stalled-body-{number}", "POST", sends=64).wire()
        async with await balancer.connect() as caller:
            await caller.send(wire[:-10])
            status = (await caller.read_response()).status
        return "" if status == 408 else f"stalled-body: {status}"

    async def _stalled_read(self, balancer: Balancer, number: str) -> str:
        """Nothing is read until the balancer has given up; the rest of the response is missing."""
        ask = Ask(f"{_LONG}-stalled-read-{number}", blocks=_LARGE)
        async with await balancer.connect(receive_buffer=64 * 1024) as caller:
            caller.stop_reading()
            await caller.send(ask.wire())
            await balancer.log_of(ask.ident)
            caller.read_on()
            try:
                await caller.read_response()
            except Cut:
                return ""
        return "stalled-read: a whole response"
