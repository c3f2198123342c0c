"""`dual_map` and `selective_push`: the servers of a key, and when another one."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from hermes_lb.balancing.dual_map import DualMap, DualOptions
from hermes_lb.balancing.selective_push import PushOptions, SelectivePush
from tests.support.pools import FakeRequest, FakeWaiter, make_pool
from tests.support.strategies import FakeAnswer, home, homes, many

KEYS = [f"k{number}" for number in range(600)]


def servers_of(strategy: DualMap, pool: Any, key: str) -> set[str]:
    """Those that a key gets, under any load of the other."""
    found = {home(pool, strategy, key)}
    first = pool.find(next(iter(found)))
    leases = [pool.lease(first, 0.0) for _ in range(50)]
    found.add(home(pool, strategy, key))
    for lease in leases:
        lease.release()
    return found


def test_a_key_has_two_servers_and_no_more() -> None:
    pool, strategy = many(10), DualMap()
    for key in KEYS[:100]:
        both = servers_of(strategy, pool, key)
        assert len(both) == 2
        for server in pool.servers:
            if server.name not in both:
                assert home(pool, strategy, key) in both


def test_the_second_only_takes_what_is_more_than_the_slack() -> None:
    pool, strategy = many(8), DualMap(DualOptions(slack=2.0))
    own = home(pool, strategy, "k")
    for _ in range(2):
        pool.lease(pool.find(own), 0.0)  # type: ignore[arg-type]
    assert home(pool, strategy, "k") == own
    pool.lease(pool.find(own), 0.0)  # type: ignore[arg-type]
    assert home(pool, strategy, "k") != own


def test_one_popular_key_is_at_two_servers_evenly() -> None:
    pool, strategy = many(8), DualMap()
    for _ in range(100):
        server = strategy.pick(pool, FakeRequest("hot"), 0.0, Random(0))
        assert server is not None
        pool.lease(server, 0.0)
    loads = sorted(server.in_flight for server in pool.servers)
    assert loads[:6] == [0] * 6
    assert loads[7] - loads[6] <= 2


def test_a_server_that_leaves_moves_only_its_own_keys() -> None:
    pool, strategy = many(10), DualMap()
    before = homes(pool, strategy, KEYS)
    pool.servers[3].set_up(False, "")
    after = homes(pool, strategy, KEYS)
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if before[key] == "s3"}
    assert len({after[key] for key in moved}) > 3


def test_keys_spread_by_weight() -> None:
    pool = make_pool({"weight": 1}, {"weight": 3})
    counts = Counter(homes(pool, DualMap(), KEYS).values())
    assert 0.6 < counts["b"] / len(KEYS) < 0.9


class TestPushing:
    """A server gets no more than it works on, and `queue`; the rest waits in the pool."""

    def fill(self, pool: Any, strategy: SelectivePush, requests: int) -> list[Any]:
        leases = []
        for number in range(requests):
            request = FakeRequest(f"k{number}")
            server = strategy.pick(pool, request, 0.0, Random(0))
            if server is None:
                break
            leases.append(pool.lease(server, 0.0, request))
        return leases

    def test_up_to_the_bound_by_weight(self) -> None:
        pool = make_pool({"weight": 1}, {"weight": 2}, {"weight": 3})
        strategy = SelectivePush(PushOptions(slots=3, queue=1))
        leases = self.fill(pool, strategy, 100)
        assert [server.in_flight for server in pool.servers] == [2, 4, 6]
        assert len(leases) == 12

    def test_a_request_that_waits_gets_the_first_free_place(self) -> None:
        pool, strategy = many(3), SelectivePush(PushOptions(slots=2, queue=0))
        leases = self.fill(pool, strategy, 100)
        waiter = FakeWaiter()
        pool.wait(waiter)
        pool.tick(1.0)
        assert waiter.server is None
        leases[4].release()
        assert waiter.server == leases[4].server.name
        assert not pool.waiting

    def test_the_reported_load_counts_and_a_report_wears_off(self) -> None:
        pool, strategy = many(2), SelectivePush(PushOptions(slots=2, queue=0, tau=5.0))
        one, other = pool.servers
        for server, load in ((one, 9.0), (other, 2.0)):
            answer: Any = FakeAnswer(200, (b"X-Hermes-Load", b"%g" % load))
            strategy.answered(server, answer, 0.1, 0.0)
        assert strategy.pick(pool, FakeRequest("k"), 1.0, Random(0)) is None
        strategy.load_reported(other, 1.0, 2.0)
        assert strategy.pick(pool, FakeRequest("k"), 2.0, Random(0)) is other
        assert self.fill(many(2), strategy, 1)

    @pytest.mark.parametrize("name", ["s0", "s1"])
    def test_nobody_waits_for_ever_behind_a_report(self, name: str) -> None:
        """No request is in flight, so no release serves the queue: the clock does."""
        pool, strategy = many(2), SelectivePush(PushOptions(slots=1, queue=0, tau=5.0))
        for server in pool.servers:
            strategy.load_reported(server, 9.0, 0.0)
        assert strategy.pick(pool, FakeRequest("k"), 0.0, Random(0)) is None
        waiter = FakeWaiter()
        pool.wait(waiter)
        strategy.load_reported(pool.find(name), 0.0, 3.0)  # type: ignore[arg-type]
        pool.tick(3.0)
        assert waiter.server == name

    def test_sessions_by_affinity_have_room_up_to_the_hard_limit(self) -> None:
        pool = many(1, max_connections=3)
        strategy = SelectivePush(PushOptions(slots=1, queue=0))
        (server,) = pool.servers
        leases = self.fill(pool, strategy, 9)
        leases += [pool.lease(server, 0.0) for _ in range(2)]
        anyone, pinned = FakeWaiter(), FakeWaiter(server)
        pool.wait(anyone)
        pool.wait(pinned)
        leases.pop().release()
        assert pinned.server == "s0"
        assert anyone.server is None
