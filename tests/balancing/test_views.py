"""The public views of strategies, which explanations use, are what they pick by."""

from __future__ import annotations

from math import inf
from random import Random
from typing import TYPE_CHECKING

import pytest

from hermes_lb.balancing.ip_hash import IpHash
from hermes_lb.balancing.leastconn import LeastConn
from hermes_lb.balancing.prequal import PROBES, Prequal
from hermes_lb.balancing.round_robin import RoundRobin
from tests.support.pools import FakeRequest, make_pool
from tests.support.strategies import FakeAnswer, many

if TYPE_CHECKING:
    from hermes_lb.backends import Lease, Pool, Server

both = pytest.mark.parametrize("strategy_type", [RoundRobin, LeastConn])


def weighted(count: int) -> Pool:
    return make_pool(*[{"name": f"s{i}", "weight": 1 + i % 3} for i in range(count)])


@both
@pytest.mark.parametrize("count", [5, 40])
def test_the_credits_say_whose_turn_it_is(
    strategy_type: type[RoundRobin | LeastConn], count: int
) -> None:
    """Few servers and many, of other loads and weights, and some that have failed."""
    pool, strategy, rng = weighted(count), strategy_type(), Random(1)
    leases: list[Lease] = []
    for number in range(600):
        now = number / 10
        candidates = list(pool.candidates((), now))
        if strategy_type is LeastConn:
            least = min(server.load / server.weight for server in candidates)
            candidates = [s for s in candidates if s.load / s.weight == least]
        held = strategy.credits(candidates)
        richest = max(candidates, key=lambda s: held[s] + s.effective_weight)
        picked = strategy.pick(pool, FakeRequest(), now, rng)
        assert picked is richest
        leases.append(pool.lease(picked, now))
        if rng.random() < 0.5:
            leases.pop(rng.randrange(len(leases))).release()
        if number % 50 == 49:
            rng.choice(pool.servers).failed(now)
        if number % 100 == 99:
            rng.choice(pool.servers).set_weight(rng.randint(1, 3))


@both
def test_credits_are_reported_for_any_servers(strategy_type: type[RoundRobin | LeastConn]) -> None:
    pool = many(3)
    strategy = strategy_type()
    strategy.pick(pool, FakeRequest(), 0.0, Random(1))
    assert strategy.credits(pool.servers[:2]) == {pool.servers[0]: -2, pool.servers[1]: 1}


@pytest.mark.parametrize("count", [2, 7, 50])
def test_ip_hash_picks_the_first_asked_that_can_take_it(count: int) -> None:
    pool, strategy, rng = weighted(count), IpHash(), Random(1)
    passed_over = 0
    for number in range(300):
        rng.choice(pool.servers).set_admin(rng.choice(["ready", "maint"]))
        address = f"10.{number % 7}.{number}.1"
        asked = list(strategy.asked(pool, address))
        able = [server for server in asked if server.can_take(0.0)]
        if able:
            assert strategy.pick(pool, FakeRequest(address), 0.0, rng) is able[0]
            passed_over += able[0] is not asked[0]
    assert passed_over
    alone = many(1)
    assert list(IpHash().asked(alone, "10.0.0.1")) == []


def coldest(strategy: Prequal, pool: Pool) -> Server:
    """By the shown figures: up to the limit, of equals the less loaded, of these the last."""
    rows, limit = strategy.probed(pool)
    cold = [row for row in reversed(rows) if row.load <= limit]
    return min(cold, key=lambda row: (row.latency, row.load)).server


@pytest.mark.parametrize("pool", [many(50), weighted(50), many(3)], ids=["many", "weights", "few"])
def test_prequal_picks_the_fastest_cold_one_of_those_probed(pool: Pool) -> None:
    strategy, rng = Prequal(), Random(1)
    leases: list[Lease] = []
    hot = 0
    for number in range(500):
        now = number / 100
        picked = strategy.pick(pool, FakeRequest(), now, rng)
        assert picked is coldest(strategy, pool)
        rows, limit = strategy.probed(pool)
        assert len(rows) <= min(PROBES, len(pool.servers))
        assert [row.at for row in rows] == sorted(row.at for row in rows)
        assert rows[-1].at == now
        hot += sum(row.load > limit for row in rows)
        leases.append(pool.lease(picked, now))
        if rng.random() < 0.7:
            lease = leases.pop(rng.randrange(len(leases)))
            lease.release()
            answer = FakeAnswer()
            strategy.answered(lease.server, answer, rng.random(), now)  # type: ignore[arg-type]
    assert hot


def test_before_the_first_pick_of_prequal_nobody_is_probed_or_hot() -> None:
    assert Prequal().probed(many(3)) == ([], inf)
