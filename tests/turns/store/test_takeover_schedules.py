"""Balancers that die, stop and lose replies, while others go on with their turns.

    - A turn's journal has each event of the backend once and in order, by each of its owners.
    - A turn that a client wants is done in the end, and keeps its fence.
    - No key is without a TTL.

Each seed is a schedule, as in test_random_schedules.py; here journals are real, and an owner that
was stopped goes on to write to its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from hermes_lb.tasks import Tasks
from hermes_lb.turns.ports import Fenced, StoreAway
from hermes_lb.turns.states import DONE, ENDED
from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.incarnation import retire
from hermes_lb.turns.store.stored_journals import StoredJournals
from hermes_lb.turns.store.stored_turns import StoredTurns
from tests.support.turn_fleet import new_principal, read_all
from tests.support.turn_watcher import Watcher
from tests.turns.store.rig import claim
from tests.turns.store.test_random_schedules import TIMING, UnreliableClient

if TYPE_CHECKING:
    from hermes_lb.turns.ports import End, OwnedTurn, Record

BALANCERS = 3
TURNS = 5
EVENTS = 25
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
LONGEST = 60.0  # seconds of a schedule; most take two


def _event(number: int) -> bytes:
    return b"id: %d\n\n" % number


class Balancer:
    """`owners`: its requests that execute a turn."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.client = UnreliableClient(schedule.url, schedule.rng, schedule.late)
        journals = StoredJournals(self.client)
        self.store = StoredTurns(self.client, journals, journals.subscriber, timing=TIMING)
        self.store.on_orphan(self._orphaned)
        self.owners = Tasks()
        self.store.start()

    async def die(self, *, is_seen: bool) -> None:
        """`is_seen`: its supervisor says so."""
        await self.owners.cancel_all()
        await self.store.abandon()
        if is_seen:
            await retire(self.schedule.other, self.store.incarnation)

    def stop(self, seconds: float) -> None:
        self.client.is_running.clear()
        asyncio.get_running_loop().call_later(seconds, self.client.is_running.set)

    def execute(self, turn: OwnedTurn, after: int) -> None:
        self.owners.spawn(self._execute(turn, after), name="owner of a turn")

    async def _execute(self, turn: OwnedTurn, after: int) -> None:
        watcher = Watcher()
        turn.watch(watcher)
        for number in range(after + 1, EVENTS + 1):
            await asyncio.sleep(self.schedule.rng.uniform(0, 0.04))
            if watcher.refused.is_set():
                return
            turn.journal.append(_event(number), 1)
        with contextlib.suppress(StoreAway, Fenced):  # the store repeats it
            await turn.done()

    def _orphaned(self, principal: str, turn: str) -> None:
        self.owners.spawn(self._take_over(turn), name="takeover")

    async def _take_over(self, turn: str) -> None:
        schedule = self.schedule
        with contextlib.suppress(StoreAway, Fenced):
            taken = await self.store.take_over(claim(principal=schedule.principal), turn)
            if taken is None:
                return
            schedule.counts["taken over"] += 1
            if taken.last:
                assert taken.tail[-1].data.endswith(_event(taken.last))
            assert taken.owned.fence == schedule.fences[turn]
            self.execute(taken.owned, taken.last)


class Schedule:
    def __init__(self, seed: int, url: str) -> None:
        self.url = url
        self.rng = random.Random(seed)
        self.late = Tasks()
        self.other = StoreClient(url)
        self.principal = new_principal()
        self.counts: Counter[str] = Counter()
        self.fences: dict[str, int] = {}
        self.fleet = [Balancer(self) for _ in range(BALANCERS)]

    async def run(self) -> Counter[str]:
        try:
            async with asyncio.timeout(LONGEST):
                await self._run()
        finally:
            for balancer in self.fleet:
                balancer.client.is_running.set()
                await balancer.die(is_seen=False)
            await self.late.cancel_all()
            await self.other.close()
        return self.counts

    async def _run(self) -> None:
        while len(self.fences) < TURNS:
            await self._begin(self.rng.choice(self.fleet))
        faults = self.late.spawn(self._fail(), name="faults")
        records = await asyncio.gather(*map(self._wanted, self.fences))
        await faults
        for record in records:
            assert record.state == DONE, record
            data, end = await self._read(record)
            assert data == b"".join(map(_event, range(1, EVENTS + 1)))
            assert end.is_clean
            for key in await self.other.ask("", "KEYS", f"*{record.id}*"):
                assert await self.other.ask(key, "PTTL", key) != -1

    async def _begin(self, balancer: Balancer) -> None:
        with contextlib.suppress(StoreAway, Fenced):
            begun = await balancer.store.begin(claim(principal=self.principal))
            turn = begun.owned
            assert turn is not None
            await turn.started("s1")
            await turn.headed(HEAD, is_stream=True, resume_path="/resume")
            self.fences[turn.id] = turn.fence
            balancer.execute(turn, 0)

    async def _wanted(self, turn: str) -> Record:
        """A client looks for it at any balancer until it has ended."""
        while True:
            store = self.rng.choice(self.fleet).store
            with contextlib.suppress(StoreAway):
                record = await store.find(self.principal, turn)
                assert record is not None
                if record.state in ENDED:
                    return record
            await asyncio.sleep(TIMING.poll)

    async def _read(self, record: Record) -> tuple[bytes, End]:
        while True:
            with contextlib.suppress(StoreAway):
                return await read_all(self.fleet[0].store.follow(record, 0))

    async def _fail(self) -> None:
        rng = self.rng
        for _ in range(6):
            await asyncio.sleep(rng.uniform(0.05, 0.3))
            place = rng.randrange(BALANCERS)
            if rng.random() < 0.6:
                self.counts["killed"] += 1
                await self.fleet[place].die(is_seen=rng.random() < 0.5)
                self.fleet[place] = Balancer(self)
            else:
                self.counts["stopped"] += 1
                self.fleet[place].stop(rng.uniform(0, 3 * TIMING.lease))


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))]
)
async def test_a_schedule_with_takeovers(seed: int, valkey_url: str) -> None:
    counts = await Schedule(seed, valkey_url).run()
    assert counts["killed"] + counts["stopped"] > 0


@pytest.mark.slow
async def test_turns_are_taken_over_at_all(valkey_url: str) -> None:
    counts: Counter[str] = Counter()
    for seed in range(100, 103):
        counts += await Schedule(seed, valkey_url).run()
    assert counts["taken over"] > 0
    assert counts["stopped"] > 0
