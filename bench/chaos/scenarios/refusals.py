"""n. Each server refuses for a second in turn, as in a rolling restart; the others are well."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.chaos.asks import Ask
from bench.chaos.caller import Cut
from bench.chaos.scenario import Scenario
from bench.chaos.scenarios.mix_up import what_is_wrong
from bench.chaos.waiting import NeverCame, until

if TYPE_CHECKING:
    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer
    from bench.chaos.workers import Worker

# Seconds between two requests of a client.
_PACE = 0.01
_MOST_REPORTED = 3


@dataclass
class Refusals(Scenario):
    """Requests that may be repeated, over kept connections, at servers with and without checks.

    At each moment two of three servers are well, so every request has an answer.
    """

    name: ClassVar[str] = "refusals"
    title: ClassVar[str] = "n. Each of three servers refuses for a second, one after the other"

    clients: int = 8
    seconds: float = 1.0  # that each server refuses for
    after: float = 3.0  # seconds of requests behind the last one

    async def run(self, arena: Arena) -> None:
        workers = await arena.workers(3)
        checks = {"health": {"path": "/health", "interval": "1s", "rise": 1}}
        for title, backend in (("active checks", checks), ("no checks", {})):
            # `max_fails` and `fail_timeout` as they are by default: this is about what they do.
            async with arena.balancer(workers, backend=backend) as balancer:
                load = _Load(balancer, title)
                async with asyncio.TaskGroup() as group:
                    for number in range(self.clients):
                        group.create_task(load.run(number))
                    for worker in workers:
                        await self._refuse(worker)
                    # Without checks a server that has failed is left alone for `fail_timeout`.
                    await load.go_on(workers if backend else [], self.after)
            load.judge(arena)

    async def _refuse(self, worker: Worker) -> None:
        worker.terminate()
        await asyncio.sleep(self.seconds)
        await worker.start()


class _Load:
    """Clients that ask on, and what they got."""

    def __init__(self, balancer: Balancer, title: str) -> None:
        self.is_over = False
        self._balancer = balancer
        self._title = title
        self._asked = 0
        self._statuses: Counter[str] = Counter()
        self._served: Counter[str] = Counter()
        self._problems: list[str] = []

    async def run(self, number: int) -> None:
        async with await self._balancer.connect() as caller:
            while not self.is_over:
                self._asked += 1
                ask = Ask(f"{self._title.replace(' ', '-')}-{number}-{self._asked}", blocks=1)
                try:
                    response = await caller.ask(ask)
                except Cut as cut:
                    self._problems.append(f"{ask.ident}: {cut}")
                    return
                self._statuses[str(response.status)] += 1
                if problem := what_is_wrong(ask, response):
                    self._problems.append(problem)
                else:
                    self._served[response.fields["x-worker"]] += 1
                await asyncio.sleep(_PACE)

    async def go_on(self, workers: list[Worker], seconds: float) -> None:
        """All are well again: until each of these has served, and for some seconds more."""
        before = self._served.copy()

        async def have_served() -> bool:
            return all(self._served[each.name] > before[each.name] for each in workers)

        try:
            await until(have_served, f"all serve again: {before}, {self._served}")
            await asyncio.sleep(seconds)
        except NeverCame as error:
            self._problems.append(str(error))
        finally:
            self.is_over = True

    def judge(self, arena: Arena) -> None:
        report, title = arena.report, self._title
        report.figure(f"{title}: requests", self._asked)
        for status, count in sorted(self._statuses.items()):
            report.figure(f"{title}: answered {status}", count)
        saw = f"{len(self._problems)} of {self._asked} were not: {self._problems[:_MOST_REPORTED]}"
        report.must(not self._problems, f"{title}: every request is answered", saw)
