"""The heaps pick exactly what loops over all servers do."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.balancing import in_turn, smooth_wrr
from hermes_lb.balancing.leastconn import LeastConn
from hermes_lb.balancing.load_heap import LoadHeap
from hermes_lb.balancing.round_robin import RoundRobin
from tests.support.examples import examples
from tests.support.pools import FakeRequest, FakeWaiter, make_pool
from tests.support.strategies import many

both = pytest.mark.parametrize("strategy_type", [RoundRobin, LeastConn])


class Loops:
    """nginx's loops, written a second time."""

    def __init__(self, strategy_type: type) -> None:
        self.by_load = strategy_type is LeastConn

    def pick(self, pool: Any, request: Any, now: float, rng: Random) -> Any:
        candidates = list(pool.candidates(request.tried, now))
        if self.by_load and candidates:
            least = min(s.load / s.weight for s in candidates)
            candidates = [s for s in candidates if s.load / s.weight == least]
            if len(candidates) == 1:
                return candidates[0]
        total = best = 0
        for server in candidates:
            server.current_weight += server.effective_weight
            total += server.effective_weight
            if server.effective_weight < server.weight:
                server.effective_weight += 1
            if not best or server.current_weight > best.current_weight:
                best = server
        if best:
            best.current_weight -= total
        return best or None


# So that a slow start's weights, some twentieths or sixteenths of these, are exact.
WEIGHTS = st.lists(st.integers(1, 4).map(lambda n: 20 * n), min_size=2, max_size=9)
EVENT = st.tuples(
    st.sampled_from(["pick"] * 12 + ["release"] * 8 + ["retry", "fail", "succeed", "down", "up"])
    | st.sampled_from(["pick", "weight", "pin", "wait", "tick"]),
    st.integers(0, 1000),
)


def play(
    strategy: Any, weights: list[int], events: list[tuple[str, int]], limits: list[int]
) -> list[str]:
    """Some traffic -> the picks, and each server's credit at the end."""
    pool = make_pool(
        *[
            {
                "name": f"s{place}",
                "weight": weight,
                "max_connections": limits[place % len(limits)],
                "max_fails": place % 4,
                "fail_timeout": 5,
                "slow_start": 40 if place % 3 else 0,
            }
            for place, weight in enumerate(weights)
        ],
        {"name": "x", "backup": True},
        {"name": "y", "backup": True, "weight": 2},
    )
    leases: list[Any] = []
    picked = []
    for now, (event, number) in enumerate(events):
        server = pool.servers[number % len(pool.servers)]
        if event in ("pick", "retry"):
            tried = [server] if event == "retry" else []
            found = strategy.pick(pool, FakeRequest(tried=tried), now, Random(0))
            picked.append(found.name if found else "-")
            if found:
                leases.append(pool.lease(found, now))
        elif event == "pin":
            leases.append(pool.lease(server, now))
        elif event == "wait" and server.is_full:
            pool.wait(FakeWaiter(server))
        elif event == "release" and leases:
            leases.pop(number % len(leases)).release()
        elif event == "fail":
            server.failed(now)
        elif event == "succeed":
            server.succeeded()
        elif event in ("down", "up"):
            server.set_up(event == "up", "")
        elif event == "weight":
            server.set_weight(20 * (number % 4))
        elif event == "tick":
            pool.tick(now)
    if isinstance(strategy, RoundRobin | LeastConn) and strategy._heap:
        strategy._heap.settle()
    return [*picked, *[f"{server.current_weight:g}" for server in pool.servers]]


@both
@examples(300)
@given(
    weights=WEIGHTS,
    events=st.lists(EVENT, min_size=10, max_size=120),
    limits=st.sampled_from([[0], [1], [0, 2, 1], [3, 2]]),
)
def test_every_pick_is_the_one_of_the_loop(
    strategy_type: type, weights: Any, events: Any, limits: Any
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_turn, "FEW", 1)
        patch.setattr(smooth_wrr, "FEW", 1)
        kept = play(strategy_type(), weights, events, limits)
    assert kept == play(Loops(strategy_type), weights, events, limits)


CALM = ["pick", "pick", "release"]
TROUBLED = [*CALM * 20, "retry", "fail", "fail", "fail", "succeed", "succeed", "tick"]
EVENTFUL = [*TROUBLED * 10, "down", "up", "up", "weight"]


@both
@pytest.mark.parametrize(
    ("weights", "limits"), [([20] * 200, [0]), ([20] * 200, [0, 4]), ([20, 100, 40] * 70, [3])]
)
@pytest.mark.parametrize("kinds", [CALM, TROUBLED, EVENTFUL])
def test_many_servers(strategy_type: type, weights: list[int], limits: list[int], kinds: list[str]):
    rng = Random(8)
    events = [(rng.choice(kinds), rng.randrange(1000)) for _ in range(2000)]
    kept = play(strategy_type(), weights, events, limits)
    assert kept == play(Loops(strategy_type), weights, events, limits)


def kept_for(strategy: Any, pool: Any, now: float = 0.0, **request: Any) -> LoadHeap | None:
    strategy.pick(pool, FakeRequest(**request), now, Random(0))
    return strategy._heap


@both
def test_it_is_kept_for_many(strategy_type: Any):
    assert kept_for(strategy_type(), many(smooth_wrr.FEW)) is None
    assert kept_for(strategy_type(), many(smooth_wrr.FEW + 1)) is not None
    assert kept_for(strategy_type(), many(smooth_wrr.FEW + 1, max_connections=9)) is not None


@both
def test_failures_and_retries_rebuild_nothing(strategy_type: Any):
    strategy, pool = strategy_type(), many(smooth_wrr.FEW + 1, max_fails=1)
    first = kept_for(strategy, pool)
    assert kept_for(strategy, pool, tried=pool.servers[:1]) is first
    pool.servers[0].failed(0.0)
    assert kept_for(strategy, pool) is first
    assert set(first._apart) == {pool.servers[0]}
    pool.lease(pool.servers[0], 11.0)
    pool.servers[0].succeeded()
    assert kept_for(strategy, pool) is first


@both
def test_who_has_failed_is_looked_at_until_its_weight_is_back(strategy_type: Any):
    strategy, pool = strategy_type(), many(smooth_wrr.FEW + 1, weight=4, max_fails=2)
    failing = pool.servers[0]
    failing.failed(0.0)
    kept = kept_for(strategy, pool)
    assert failing.effective_weight == 3  # of 4 - 4 // 2, and one grown back
    failing.fails = 0
    kept_for(strategy, pool)
    assert failing.effective_weight == 4
    assert not kept._apart


@both
def test_it_is_kept_while_one_is_warming_up(strategy_type: Any):
    strategy, pool = strategy_type(), many(smooth_wrr.FEW + 1, weight=20, slow_start=60)
    server = pool.servers[0]
    server.set_up(False, "")
    server.set_up(True, "")
    pool.tick(0.0)
    assert server.weight < 20
    assert kept_for(strategy, pool) is not None


@both
def test_weights_that_would_be_rounded_are_left_to_the_loop(strategy_type: Any):
    strategy, pool = strategy_type(), many(smooth_wrr.FEW + 1)
    assert kept_for(strategy, pool) is not None
    pool.servers[0].weight = pool.servers[0].effective_weight = 1 / 3
    pool._changed()
    assert kept_for(strategy, pool) is None


@both
def test_a_new_limit_counts_at_once(strategy_type: Any):
    strategy, pool = strategy_type(), many(smooth_wrr.FEW + 1)
    kept_for(strategy, pool)
    for server in pool.servers[1:]:
        server.max_connections = 1
        pool.lease(server, 0.0)
    pool._changed()
    names = {strategy.pick(pool, FakeRequest(), 0.0, Random(0)).name for _ in range(9)}
    assert names == {"s0"}


@both
def test_who_leaves_gives_back_what_it_kept(strategy_type: Any):
    """Another strategy continues from these credits, as nginx's would."""
    strategy, pool = strategy_type(), many(smooth_wrr.FEW + 1, max_connections=9)
    kept_for(strategy, pool)
    assert pool.touched is not None
    strategy.detach(pool)
    assert pool.touched is None
    assert [server.current_weight for server in pool.servers] == [-smooth_wrr.FEW] + [
        1
    ] * smooth_wrr.FEW


def test_the_pool_notes_changes_only_while_somebody_wants_to_know():
    pool = many(3)
    kept = LoadHeap(pool)
    lease = pool.lease(pool.servers[1], 0.0)
    assert pool.touched == {pool.servers[1]}
    assert kept.next((), 0.0) is pool.servers[0]
    assert pool.touched == set()
    lease.release()
    assert pool.touched == {pool.servers[1]}
    kept.settle()
    assert pool.touched is None


def test_turns_without_limits_need_no_notes():
    pool = many(3)
    LoadHeap(pool, by_load=False)
    assert pool.touched is None
