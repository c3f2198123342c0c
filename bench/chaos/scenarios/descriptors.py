"""f. File descriptors run out."""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.chaos.asks import Ask
from bench.chaos.caller import Caller, Cut
from bench.chaos.scenario import Scenario
from bench.chaos.waiting import NeverCame

if TYPE_CHECKING:
    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer

_THINKS = 600_000  # ms
_PLENTY = 2000
_NOTHING = 8  # descriptors; more are open anyway, so none can be opened
_PATIENCE = 10.0  # s
# On stderr. A second on asyncio's loop is 8 listeners with 6 lines each.
_MOST_LINES = 1000
_ROOM = 100  # clients, where the balancer's own limit is to be reached

# How they run out. A balancer that knows of a low limit may keep away from it. It can't know that
# there will be less later, as when the whole machine runs out (ENFILE).
LOW_AT_START, LOWERED, LOWERED_WHILE_FULL = (
    "low from the start",
    "lowered at run time",
    "lowered while it is full",
)
# Not at all: the balancer's own limit of connections keeps them from it.
KEPT_FROM_IT = "never, by its own limit"
_LIMITED = (LOWERED_WHILE_FULL, KEPT_FROM_IT)


@dataclass
class Descriptors(Scenario):
    """More clients than a process with a low RLIMIT_NOFILE can hold; then they leave.

    First they are silent, then each asks for something that takes for ever.
    """

    name: ClassVar[str] = "descriptors"
    title: ClassVar[str] = "f. File descriptors run out"

    limit: int = 256
    clients: int = 400
    seconds: float = 2.0  # for which the crowd stays, each time
    most_cpu: float = 0.25  # of a core, while nothing happens
    loops: tuple[str, ...] = ("uvloop", "asyncio")
    ways: tuple[str, ...] = (LOW_AT_START, LOWERED, LOWERED_WHILE_FULL, KEPT_FROM_IT)

    async def run(self, arena: Arena) -> None:
        workers = await arena.workers(2)
        options: dict[str, Any] = {
            "backend": {
                "keep_alive": 0,  # each request needs a descriptor for its server
                "health": {"path": "/health", "interval": "200ms", "fall": 2},
            },
            "timeouts": dict.fromkeys(("request_head", "keep_alive", "server"), "10m"),
        }
        for loop in self.loops:
            for way in self.ways:
                name = f"{loop}, {way}"
                try:
                    async with arena.balancer(
                        workers,
                        loop=loop,
                        open_files=self.limit if way == LOW_AT_START else _PLENTY,
                        process={"max_connections": _ROOM} if way in _LIMITED else {},
                        **options,
                    ) as balancer:
                        if way == LOWERED_WHILE_FULL:
                            await self._while_full(arena, balancer, name)
                        elif way == KEPT_FROM_IT:
                            await self._in_turns(arena, balancer, name)
                        else:
                            await self._crowd(arena, balancer, way, name)
                except (OSError, NeverCame, Cut) as error:  # a TimeoutError is an OSError
                    arena.report.must(False, f"{name}: the balancer can be asked", repr(error))

    async def _crowd(self, arena: Arena, balancer: Balancer, way: str, name: str) -> None:
        await balancer.metrics()  # the operator has a connection before the crowd
        if way == LOWERED:
            _limit(balancer, self.limit)
        crowd = await self._come_at_once(balancer)
        silent = await self._cpu_share(balancer)
        asking = [
            asyncio.get_running_loop().create_task(_ask(caller, f"crowd-{number}", _THINKS))
            for number, caller in enumerate(crowd)
        ]
        asked = await self._cpu_share(balancer)
        outcomes = Counter(task.result() for task in asking if task.done())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        metrics = await balancer.metrics()
        balancer.hang_up()
        said = balancer.said.splitlines()
        figure, must = arena.report.figure, arena.report.must
        outcomes["waits"] = self.clients - outcomes.total()
        figure(f"{name}: descriptors, clients", f"{self.limit}, {self.clients}")
        figure(f"{name}: what became of a request of each", _listed(outcomes))
        figure(f"{name}: lines on stderr", len(said))
        figure(f"{name}: CPU while they are silent, of a core", silent)
        figure(f"{name}: CPU while they wait, of a core", asked)
        must(max(silent, asked) < self.most_cpu, f"{name}: no busy loop", (silent, asked))
        must(
            set(outcomes) <= {"503", "429", "closed", "waits"},
            f"{name}: each client is answered, closed, or waits",
            outcomes,
        )
        ups = [metrics.total("hermes_lb_server_up", server=f"agent{n}") for n in (1, 2)]
        fails = metrics.total("hermes_lb_server_fails")
        must(ups == [1.0, 1.0], f"{name}: no server is marked down", ups)
        must(fails == 0, f"{name}: no server is counted as failed", fails)
        must("DOWN" not in balancer.said, f"{name}: nor was one meanwhile")
        must(len(said) < _MOST_LINES, f"{name}: the log is not flooded", len(said))
        must(await _is_served(balancer), f"{name}: a new client is served when the crowd has left")

    async def _come_at_once(self, balancer: Balancer) -> list[Caller]:
        """All are in the backlog before the first is accepted: the worst loop iteration."""
        with balancer.frozen():
            return [await balancer.connect() for _ in range(self.clients)]

    async def _while_full(self, arena: Arena, balancer: Balancer, name: str) -> None:
        """The balancer accepts no more; when it could again, it lacks descriptors for a while."""
        await balancer.metrics()
        crowd = [await balancer.connect() for _ in range(_ROOM)]
        await balancer.until_metric(
            "hermes_lb_connections", lambda count: count >= _ROOM, "the balancer is full"
        )
        _limit(balancer, _NOTHING)
        for caller in crowd[: _ROOM // 2]:
            caller.abort()
        await balancer.until_metric(
            "hermes_lb_connections", lambda count: count <= _ROOM // 2, "half of them have left"
        )
        _limit(balancer, _PLENTY)
        served = await _is_served(balancer)
        arena.report.must(served, f"{name}: the listener is not lost")

    async def _in_turns(self, arena: Arena, balancer: Balancer, name: str) -> None:
        """Far more clients than there is room for, all at once: each has its turn."""
        crowd = await self._come_at_once(balancer)
        outcomes = Counter(
            await asyncio.gather(
                *(_ask_and_leave(caller, f"crowd-{number}") for number, caller in enumerate(crowd))
            )
        )
        arena.report.figure(f"{name}: room, clients", f"{_ROOM}, {self.clients}")
        arena.report.must(set(outcomes) == {"200"}, f"{name}: each client is answered", outcomes)

    async def _cpu_share(self, balancer: Balancer) -> float:
        """What the balancer uses for a while, of a core."""
        before, began = balancer.process.cpu_ns(), time.monotonic_ns()
        await asyncio.sleep(self.seconds)
        return (balancer.process.cpu_ns() - before) / (time.monotonic_ns() - began)


def _limit(balancer: Balancer, soft: int) -> None:
    """The hard limit stays: only root could raise that again."""
    resource.prlimit(balancer.process.pid, resource.RLIMIT_NOFILE, (soft, _PLENTY))


async def _ask(caller: Caller, ident: str, wait: int) -> str:
    """-> the response of a worker that takes `wait` ms."""
    try:
        return str((await caller.ask(Ask(ident, wait=wait))).status)
    except Cut:
        return "closed"
    except TimeoutError:
        return "nothing"


async def _ask_and_leave(caller: Caller, ident: str) -> str:
    outcomes = await _ask(caller, ident, 1)
    caller.close()
    return outcomes


async def _is_served(balancer: Balancer) -> bool:
    """Whether a new client is, before long; it may be closed at once while the others still go."""
    try:
        async with asyncio.timeout(_PATIENCE):
            while True:
                async with await balancer.connect() as caller:
                    try:
                        return (await caller.ask(Ask("after-the-crowd"))).status == 200
                    except Cut:
                        await asyncio.sleep(0.01)
    except TimeoutError:
        return False


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in sorted(counts.items()) if count)
