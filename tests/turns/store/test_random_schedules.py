"""Balancers that die and stop, replies that are lost, late or repeated: what holds all the same.

    - A turn is executed by one balancer at most, a key once, unless its turn was released, or lost
      and repeated once.
    - No two requests of a session are open at once. Those of a process that was stopped count
      apart: its socket stays open, or is opened late, whatever the store does.
    - Fences of a session grow with each request.
    - No key is without a TTL, and at the end each session is free.

Each seed is a schedule; what is left to chance is the order of the replies.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from hermes_lb.tasks import Tasks
from hermes_lb.turns.ports import OWNED, QUEUED, Claim, Fenced, StoreAway
from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.incarnation import retire
from hermes_lb.turns.store.stored_turns import StoredTurns
from hermes_lb.turns.store.subscriber import Subscriber
from hermes_lb.turns.store.timing import Timing
from tests.support.turn_fleet import new_principal
from tests.support.turn_journals import JournalServer, MemoryJournals
from tests.support.turn_watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hermes_lb.turns.ports import OwnedTurn

TIMING = Timing(lease=0.4, beat=0.08, poll=0.04)
SETTLE = 0.15  # longer than a poll: an owner that is fenced off closes its request within
SESSIONS = ("s1", "s2")
KEYS = ("k1", "k2", "k3")
BALANCERS = 3
REQUESTS = 120


class UnreliableClient(StoreClient):
    """Some requests are lost, some replies, some are executed twice, or when the caller has given
    up. A stopped process (`is_running` not set) does nothing at all."""

    def __init__(self, url: str, rng: random.Random, tasks: Tasks) -> None:
        super().__init__(url)
        self.is_running = asyncio.Event()
        self.is_running.set()
        self._rng = rng
        self._tasks = tasks

    async def run(self, *args: Any, **how: Any) -> Any:
        return await self._badly(lambda: super(UnreliableClient, self).run(*args, **how))

    async def ask(self, *args: Any) -> Any:
        if args[1] == "GET":
            # A beat that is looked at: each failure would begin all observations again.
            await self.is_running.wait()
            return await super().ask(*args)
        return await self._badly(lambda: super(UnreliableClient, self).ask(*args))

    async def _badly(self, operation: Callable[[], Awaitable[Any]]) -> Any:
        await self.is_running.wait()
        luck = self._rng.random()
        if luck < 0.02:
            raise StoreAway("the request is lost")
        if luck < 0.05:
            self._tasks.spawn(self._late(operation), name="late")
            raise StoreAway("the request is late")
        reply = await operation()
        if luck < 0.08:
            raise StoreAway("the reply is lost")
        if luck < 0.13:
            reply = await operation()
        await self.is_running.wait()
        return reply

    async def _late(self, operation: Callable[[], Awaitable[Any]]) -> None:
        await asyncio.sleep(self._rng.uniform(0, 0.2))
        with contextlib.suppress(StoreAway):
            await operation()


class Balancer:
    def __init__(self, url: str, rng: random.Random, journals: JournalServer, late: Tasks) -> None:
        self.client = UnreliableClient(url, rng, late)
        self.subscriber = Subscriber(self.client, late)
        self.store = StoredTurns(
            self.client, MemoryJournals(journals), self.subscriber, timing=TIMING
        )
        self.requests = Tasks()
        self.stops = 0
        self.store.start()

    async def die(self) -> None:
        await self.requests.cancel_all()
        await self.store.abandon()
        self.subscriber.close()

    @property
    def is_stopped(self) -> bool:
        return not self.client.is_running.is_set()

    def stop(self, seconds: float) -> None:
        self.stops += 1
        self.client.is_running.clear()
        asyncio.get_running_loop().call_later(seconds, self.client.is_running.set)


class Request(NamedTuple):
    """`stops`: of its balancer, before the turn was started."""

    balancer: Balancer
    claim: Claim
    stops: int

    @property
    def was_stopped(self) -> bool:
        """Its process can't have noticed in time that the turn is another's, or lost."""
        return self.balancer.stops > self.stops


class Backend:
    """Checks each request when it comes."""

    def __init__(self) -> None:
        self.open: dict[str, Request] = {}
        self.ended: dict[str, tuple[str, str]] = {}  # turn -> key, how
        self.fences: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self.violations: list[AssertionError] = []

    def begin(self, turn: OwnedTurn, request: Request, attempt: int) -> None:
        self.counts["executed"] += 1
        claim = request.claim
        assert turn.id not in self.open, "two owners"
        assert turn.id not in self.ended, "executed twice"
        beside = [each for each in self.open.values() if each.claim.session == claim.session != ""]
        self.open[turn.id] = request
        if request.was_stopped:
            self.counts["begun late"] += 1
            return
        assert all(each.was_stopped for each in beside), f"two requests of {claim.session}"
        self.counts["beside a stopped process"] += len(beside)
        if claim.session:
            assert turn.fence > self.fences.get(claim.session, 0), "fences grow"
            self.fences[claim.session] = turn.fence
        if claim.key:
            self._check_key(turn, claim.key, attempt)

    def _check_key(self, turn: OwnedTurn, key: str, attempt: int) -> None:
        before = [how for name, how in self.ended.values() if name == key]
        before += [
            "open"
            for name, each in self.open.items()
            if each.claim.key == key and name != turn.id and not each.was_stopped
        ]
        unknown = [how for how in before if how not in ("released", "repeated")]
        if attempt == 1:
            assert not unknown, f"{key} again after {unknown}"
            return
        self.counts["repeated"] += 1
        assert not [how for how in unknown if how != "lost"], f"{key} again after {unknown}"
        # Once: neither the lost one nor this one may be followed by another.
        for other, (name, how) in self.ended.items():
            if name == key and how == "lost":
                self.ended[other] = name, "repeated"

    def end(self, turn: OwnedTurn, how: str) -> None:
        """Until the store has it (`stored`), one that is done or cancelled may count as lost there:
        its process may die first."""
        request = self.open.pop(turn.id)
        is_final = how in ("done", "cancelled")
        self.ended[turn.id] = request.claim.key, "lost" if is_final else how
        self.counts[how] += 1

    def stored(self, turn: OwnedTurn, how: str) -> None:
        key, before = self.ended[turn.id]
        self.ended[turn.id] = key, how
        if before == "repeated":
            self.violations.append(AssertionError(f"{key} was repeated, and is {how}"))


async def _request(balancer: Balancer, backend: Backend, claim: Claim, rng: random.Random) -> None:
    store = balancer.store
    try:
        begun = await store.begin(claim)
    except StoreAway:
        return
    backend.counts[f"outcome {begun.outcome}"] += 1
    if begun.outcome not in (OWNED, QUEUED):
        if begun.record is not None and rng.random() < 0.2:
            with contextlib.suppress(StoreAway):
                await store.cancel(claim.principal, begun.record.id)
        return
    turn, record = begun.owned, begun.record
    assert turn is not None
    assert record is not None
    watcher = Watcher()
    turn.watch(watcher)
    stop = watcher.must_stop
    try:
        if begun.outcome == QUEUED:
            async with asyncio.timeout(rng.uniform(0.05, 3)):
                await turn.granted()
        await asyncio.sleep(rng.uniform(0, 0.01))
        request = Request(balancer, claim, balancer.stops)
        await turn.started("s1")
    except Fenced:
        return
    except (StoreAway, TimeoutError):
        with contextlib.suppress(StoreAway, Fenced):
            await turn.release(b"")
        return
    try:
        backend.begin(turn, request, record.attempt)
    except AssertionError as error:
        backend.violations.append(error)
    how = "lost"  # if this process dies
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rng.uniform(0, 0.1)):
                await stop.wait()
        await balancer.client.is_running.wait()
        how = rng.choice(("done", "done", "done", "lost", "released", "cancelled"))
    finally:
        backend.end(turn, how)
    with contextlib.suppress(StoreAway, Fenced):
        if how == "lost":
            await turn.lost("backend")
        elif how == "released":
            await turn.release(b"answer")
        elif how == "cancelled":
            await turn.cancelled()
            backend.stored(turn, how)
        else:
            await turn.done()
            backend.stored(turn, how)


async def _run(seed: int, url: str) -> Counter[str]:
    rng = random.Random(seed)
    principal = new_principal()
    late, journals, backend = Tasks(), JournalServer(), Backend()
    fleet = [Balancer(url, rng, journals, late) for _ in range(BALANCERS)]

    def claim(session: str, key: str) -> Claim:
        return Claim(
            principal=principal,
            nonce=secrets.token_hex(16),
            key=key,
            session=session,
            fingerprint="f",
            waits=rng.random() < 0.9,
            keep=60.0,
            keep_events=30.0,
            settle=SETTLE,
            repeats_lost=rng.random() < 0.5,
            journal_size=1000,
        )

    other = StoreClient(url)
    await other.ask("", "FLUSHDB")  # keys of other tests have no lifetime
    for number in range(REQUESTS):
        await asyncio.sleep(rng.uniform(0, 0.05))
        balancer = rng.choice(fleet)
        one = claim(rng.choice((*SESSIONS, "")), rng.choice(("", "", *KEYS, f"k{number}")))
        balancer.requests.spawn(_request(balancer, backend, one, rng), name=f"request {number}")
        luck = rng.random()
        place = rng.randrange(BALANCERS)
        victim = fleet[place]
        if luck < 0.04:
            backend.counts["killed"] += 1
            await victim.die()
            if luck < 0.02:  # the supervisor is there, and says so
                await retire(other, victim.store.incarnation)
            fleet[place] = Balancer(url, rng, journals, late)
        elif luck < 0.08:
            # One that has a request open, if there is one.
            at_work = [each.balancer for each in backend.open.values() if each.claim.session]
            victim = rng.choice(at_work or [victim])
            if not victim.is_stopped:
                backend.counts["stopped"] += 1
                victim.stop(rng.uniform(0, 4 * TIMING.lease))
        elif luck < 0.1:
            backend.counts["expired"] += 1
            await other.ask("", "DEL", f"lb:{{o:{victim.store.incarnation}}}:alive")
    for balancer in fleet:
        balancer.client.is_running.set()
    await _check_keys(other, principal)
    await _check_sessions(Balancer(url, rng, journals, late), [claim(s, "") for s in SESSIONS])
    for balancer in fleet:
        await balancer.die()
    await late.cancel_all()
    await _check_keys(other, principal)
    await other.close()
    assert not backend.violations
    return backend.counts


async def _check_keys(client: StoreClient, principal: str) -> None:
    keys = await client.ask("", "KEYS", "lb:*")
    for key in keys:
        ttl = await client.ask(key, "PTTL", key)
        assert ttl != -1, f"{key!r} has no TTL"
    slot = f"lb:{{{principal[:16]}}}:".encode()
    kinds = {key.split(b":")[2] for key in keys if key.startswith(slot)}
    assert kinds <= {b"turn", b"key", b"ses", b"que", b"use"}


async def _check_sessions(balancer: Balancer, claims: list[Claim]) -> None:
    """Each is free after some time, whatever has happened."""
    for one in claims:
        while True:
            again = one._replace(nonce=secrets.token_hex(16), waits=True)
            with contextlib.suppress(StoreAway, Fenced):
                begun = await balancer.store.begin(again)
                if begun.owned is not None:
                    await begun.owned.granted()
                    await begun.owned.release(b"")
                    break
            await asyncio.sleep(TIMING.poll)
    await balancer.die()


@pytest.mark.parametrize("seed", range(3))
async def test_a_schedule(seed: int, valkey_url: str) -> None:
    counts = await _run(seed, valkey_url)
    assert counts["executed"] > REQUESTS / 10


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_many_schedules_of_all_kinds(valkey_url: str) -> None:
    """Each kind of event has occurred."""
    counts: Counter[str] = Counter()
    for seed in range(100, 112):
        counts += await _run(seed, valkey_url)
    kinds = ("killed", "stopped", "expired", "repeated", "beside a stopped process")
    ends = ("done", "lost", "released", "cancelled")
    assert not [kind for kind in (*kinds, *ends) if not counts[kind]], counts
