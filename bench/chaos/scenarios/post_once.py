"""b. A POST is executed at most once; with an Idempotency-Key it may be, and is, sent again."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from bench.chaos.asks import Ask
from bench.chaos.caller import Caller, Cut
from bench.chaos.scenario import Scenario
from bench.chaos.scenarios.mix_up import what_is_wrong
from bench.chaos.waiting import until

if TYPE_CHECKING:
    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer
    from bench.chaos.workers import Worker

_WORKERS = 3
_WORK = 30  # ms between a worker's line in the journal and its answer
_KEPT = 5  # requests on a connection that is kept


@dataclass
class _Round:
    """All POSTs of one kind, and what became of them."""

    kind: str  # the start of their ids
    fields: tuple[str, ...]
    is_over: bool = False
    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    asked: int = 0
    open: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    retried: int = 0

    @property
    def lost(self) -> int:
        return self.asked - self.counts["answered"]


@dataclass
class PostOnce(Scenario):
    """POSTs over kept and fresh connections, while workers are killed, stopped and restarted.

    Each fault comes at a moment when its worker is executing something, so there is always
    something that a careless balancer would do twice.
    """

    name: ClassVar[str] = "post-once"
    title: ClassVar[str] = "b. A POST is executed at most once"

    posts: int = 1000
    clients: int = 16
    kills: int = 6
    seed: int = 1

    async def run(self, arena: Arena) -> None:
        workers = await arena.workers(_WORKERS)
        plain = await self._round(arena, workers, _Round("plain", ()))
        keyed = await self._round(arena, workers, _Round("keyed", ("Idempotency-Key: {}",)))
        executed = arena.journal.executed()
        twice = {kind: _twice(executed, kind) for kind in ("plain", "keyed")}
        must = arena.report.must
        must(not twice["plain"], "no POST is executed twice", twice["plain"][:5])
        must(len(twice["keyed"]) > 0, "POSTs with a key are sent again")
        must(
            keyed.lost < plain.lost,
            "of those with a key fewer are lost",
            (keyed.lost, plain.lost),
        )
        for each in (plain, keyed):
            self._figures(arena, each, len(twice[each.kind]))

    def _figures(self, arena: Arena, this: _Round, twice: int) -> None:
        figure = arena.report.figure
        figure(f"{this.kind}: POSTs", this.asked)
        figure(f"{this.kind}: answered", this.counts["answered"])
        figure(f"{this.kind}: refused (502, 503, 504)", this.counts["refused"])
        figure(f"{this.kind}: cut, visibly", this.counts["cut"])
        figure(f"{this.kind}: executed more than once", twice)
        figure(f"{this.kind}: retries by the balancer", this.retried)

    async def _round(self, arena: Arena, workers: list[Worker], this: _Round) -> _Round:
        async with arena.balancer(
            workers,
            # A dead worker is asked as often as any other, so that dials fail, too.
            server={"max_fails": 0},
            timeouts={"server": "1s", "connect": "1s"},
        ) as balancer:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._faults(arena, workers, this))
                for number in range(self.clients):
                    group.create_task(self._client(balancer, this, is_kept=number % 2 == 0))
            this.retried = int((await balancer.metrics()).total("hermes_lb_retries_total"))
        executed = arena.journal.executed()
        must = arena.report.must
        must(this.counts.total() == this.asked >= self.posts, "each POST ends visibly", this)
        must(not this.wrong, "each response is its request's own", this.wrong[:3])
        must(this.retried > 0, "dials that fail are repeated")
        must(this.counts["refused"] > 0, "the faults can be felt")
        must(this.counts["answered"] > this.asked / 2, "most POSTs are answered", this.counts)
        answered = sum(1 for ident in executed if ident.startswith(f"{this.kind}-"))
        must(answered >= this.counts["answered"], "no POST is answered without being executed")
        return this

    async def _client(self, balancer: Balancer, this: _Round, *, is_kept: bool) -> None:
        """One POST after the other, until there were enough and no fault is to come."""
        while not this.is_over or this.asked < self.posts:
            async with await balancer.connect() as caller:
                for _ in range(_KEPT if is_kept else 1):
                    if not await self._post(caller, this):
                        break

    async def _post(self, caller: Caller, this: _Round) -> bool:
        """-> whether the connection can be used again."""
        ident = f"{this.kind}-{next(this.ids)}"
        fields = tuple(each.format(ident) for each in this.fields)
        ask = Ask(ident, "POST", wait=_WORK, sends=1, fields=fields)
        this.asked += 1
        this.open.add(ident)
        try:
            response = await caller.ask(ask)
        except Cut:
            this.counts["cut"] += 1
            return False
        finally:
            this.open.discard(ident)
        if response.status in (502, 503, 504):
            this.counts["refused"] += 1
        elif problem := what_is_wrong(ask, response):
            this.counts["wrong"] += 1
            this.wrong.append(problem)
        else:
            this.counts["answered"] += 1
        return response.fields.get("connection") != "close"

    async def _faults(self, arena: Arena, workers: list[Worker], this: _Round) -> None:
        """In an order that the seed fixes; each when its worker is at work."""
        rng = random.Random(self.seed)
        faults = ["kill"] * self.kills + ["terminate"] * 2 + ["freeze"]
        rng.shuffle(faults)
        for fault in faults:
            victim = rng.choice(workers)

            async def is_at_work(victim: Worker = victim) -> bool:
                return bool(arena.journal.executing(victim.name) & this.open)

            await until(is_at_work, f"{victim.name} executes something")
            if fault == "freeze":
                await self._freeze(victim, this)
                continue
            victim.kill() if fault == "kill" else victim.terminate()
            # While it is dead, its address is asked and refuses.
            await _after(this, 2 * self.clients)
            await victim.start()
        this.is_over = True

    async def _freeze(self, victim: Worker, this: _Round) -> None:
        """SIGSTOP until the balancer has given up some of what it is doing."""
        refused = this.counts["refused"]

        async def is_felt() -> bool:
            return this.counts["refused"] > refused

        victim.freeze()
        try:
            await until(is_felt, "a request to a stopped worker is given up")
        finally:
            victim.thaw()


async def _after(this: _Round, count: int) -> None:
    """Wait for that many more POSTs."""
    wanted = this.asked + count

    async def is_reached() -> bool:
        return this.asked >= wanted

    await until(is_reached, f"{count} more POSTs")


def _twice(executed: Counter[str], kind: str) -> list[str]:
    return [ident for ident, times in executed.items() if times > 1 and ident.startswith(kind)]
