"""e. A worker that accepts and says nothing."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.chaos.arena import own_host
from bench.chaos.asks import Ask
from bench.chaos.scenario import Scenario

if TYPE_CHECKING:
    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer

_MUTE = "mute"


@dataclass
class MuteWorker(Scenario):
    """One of three workers takes connections and requests, and never answers."""

    name: ClassVar[str] = "mute-worker"
    title: ClassVar[str] = "e. A worker that accepts and says nothing"

    clients: int = 12
    afterwards: int = 300  # requests, once it has been taken out
    timeout: float = 1.0  # `timeouts.server`, seconds

    async def run(self, arena: Arena) -> None:
        workers = await arena.workers(2)
        # The worker does not accept: the kernel does, and receives up to a buffer's size.
        with socket.create_server((own_host(), 0), backlog=1024) as mute:
            servers = {_MUTE: mute.getsockname(), **{w.name: w.address for w in workers}}
            async with arena.balancer(
                servers,
                server={"max_fails": 0},  # the active checks alone shall take it out
                backend={
                    "health": {
                        "path": "/health",
                        # The third failed check comes after the first requests have timed out.
                        "interval": f"{self.timeout}s",
                        "timeout": f"{self.timeout}s",
                        "fall": 3,
                    },
                },
                timeouts={"server": f"{self.timeout}s"},
            ) as balancer:
                await self._measure(arena, balancer)

    async def _measure(self, arena: Arena, balancer: Balancer) -> None:
        is_out = False
        asked = 0

        async def visit(number: int) -> None:
            nonlocal asked
            async with await balancer.connect() as caller:
                while not is_out:
                    asked += 1
                    await caller.ask(Ask(f"before-{number}-{asked}"))

        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(visit(number))
            await balancer.until_server_is(up=False, name=_MUTE)
            is_out = True
        afterwards: Counter[str] = Counter()
        async with await balancer.connect() as caller:
            for number in range(self.afterwards):
                response = await caller.ask(Ask(f"after-{number}"))
                afterwards[response.fields.get("x-worker", str(response.status))] += 1
        await balancer.log_of(f"after-{self.afterwards - 1}")
        self._judge(arena, balancer, asked, afterwards)

    def _judge(
        self, arena: Arena, balancer: Balancer, asked: int, afterwards: Counter[str]
    ) -> None:
        before = [line for line in balancer.log_lines() if "/before-" in line.target]
        unanswered = [line for line in before if line.server == _MUTE]
        answered = [line for line in before if line.server != _MUTE]
        report, must = arena.report, arena.report.must
        took = [line.took for line in unanswered]
        report.figure("requests before it was taken out", len(before))
        report.figure("504s, all from the mute worker", len(unanswered))
        report.figure("504 after, fastest and slowest ms", f"{min(took)} - {max(took)}")
        report.figure("answered by others meanwhile", len(answered))
        report.figure("... slowest of them, ms", max(line.took for line in answered))
        report.figure("requests after it was taken out", afterwards.total())
        must(len(before) == asked, "every request is in the log", (len(before), asked))
        must(len(unanswered) > 0, "the mute worker was asked")
        must(
            {(line.status, line.termination) for line in unanswered} == {(504, "sH")},
            "each of its requests gets a 504",
            unanswered[:3],
        )
        must(min(took) >= self.timeout * 1000, "... not before timeouts.server", took)
        must(
            {(line.status, line.termination) for line in answered} == {(200, "--")},
            "all others are answered",
            [line for line in answered if line.status != 200][:3],
        )
        must(_MUTE in balancer.said, "taking it out is logged")
        must(
            afterwards.total() == afterwards["agent1"] + afterwards["agent2"],
            "once it is out, no request reaches it",
            afterwards,
        )
