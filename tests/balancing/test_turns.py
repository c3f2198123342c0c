"""What is kept from pick to pick changes no pick: beside the loops over all servers."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_lb.balancing import LeastConn, RoundRobin, turns
from hermes_lb.balancing.round_robin import next_in_turn
from hermes_lb.balancing.turns import Ranks, Turns
from tests.balancing.support import many
from tests.pool.support import FakeRequest, FakeWaiter, make_pool


class Loops:
    """nginx's loops, told once more."""

    def __init__(self, strategy_type: type) -> None:
        self.by_load = strategy_type is LeastConn

    def pick(self, pool: Any, request: Any, now: float, rng: Random) -> Any:
        candidates = list(pool.candidates(request.tried, now))
        if self.by_load and candidates:
            least = min(s.load / s.weight for s in candidates)
            candidates = [s for s in candidates if s.load / s.weight == least]
            if len(candidates) == 1:
                return candidates[0]
        return next_in_turn(candidates) if candidates else None


EVENT = st.tuples(
    st.sampled_from(["pick"] * 12 + ["release"] * 8 + ["retry", "fail", "succeed", "down", "up"])
    | st.sampled_from(["pick", "weight", "pin", "wait"]),
    st.integers(0, 1000),
)


def play(
    strategy: Any, weights: list[int], events: list[tuple[str, int]], limits: list[int]
) -> list[str]:
    """Some traffic -> what was picked, and in the end what each server has left of its turns."""
    pool = make_pool(
        *[
            {
                "name": f"s{place}",
                "weight": weight,
                "max_connections": limits[place % len(limits)],
                "max_fails": 2,
                "fail_timeout": 5,
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
            server.set_weight(number % 4)
    strategy.pick(pool, FakeRequest(tried=pool.servers), len(events), Random(0))  # settles
    return [*picked, *[f"{server.current_weight:g}" for server in pool.servers]]


@pytest.mark.parametrize("strategy_type", [RoundRobin, LeastConn])
@settings(deadline=None, max_examples=300)
@given(
    weights=st.lists(st.integers(1, 4), min_size=2, max_size=9),
    events=st.lists(EVENT, min_size=10, max_size=120),
    limits=st.sampled_from([[0], [1], [0, 2, 1], [3, 2]]),
)
def test_every_pick_is_the_one_of_the_loop(
    strategy_type: type, weights: Any, events: Any, limits: Any
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "FEW", 1)
        kept = play(strategy_type(), weights, events, limits)
    assert kept == play(Loops(strategy_type), weights, events, limits)


@pytest.mark.parametrize("strategy_type", [RoundRobin, LeastConn])
@pytest.mark.parametrize("weights", [[1] * 300, [1, 5, 2] * 100])
@pytest.mark.parametrize("limits", [[0], [3], [0, 4]])
def test_many_servers(strategy_type: type, weights: list[int], limits: list[int]):
    rng = Random(8)
    events = [(rng.choice(["pick", "pick", "release"]), rng.randrange(1000)) for _ in range(3000)]
    kept = play(strategy_type(), weights, events, limits)
    assert kept == play(Loops(strategy_type), weights, events, limits)


@pytest.mark.parametrize("strategy_type", [RoundRobin, LeastConn])
def test_it_is_kept_for_many_of_which_none_has_failed(strategy_type: Any):
    def is_kept(pool: Any, **request: Any) -> bool:
        strategy.pick(pool, FakeRequest(**request), 0.0, Random(0))
        return strategy._kept.value is not None

    strategy = strategy_type()
    pool = many(turns.FEW + 1)
    assert is_kept(pool)
    assert not is_kept(pool, tried=pool.servers[:1])
    assert is_kept(pool)
    pool.servers[0].failed(0.0)
    assert not is_kept(pool)
    strategy = strategy_type()
    assert not is_kept(many(turns.FEW))
    strategy = strategy_type()
    assert is_kept(many(turns.FEW + 1, max_connections=9))


def test_the_heaps_do_not_grow_with_those_that_have_left():
    pool = many(3)
    group = Turns(enumerate(pool.servers))
    for _ in range(1000):
        group.remove(pool.servers[1])
        group.add(1, pool.servers[1])
    assert len(group) == 3
    assert sum(map(len, group._heaps.values())) <= 2 * 3 + turns.FEW


def test_the_pool_notes_changes_only_while_somebody_wants_to_know():
    pool = many(3)
    ranks = Ranks(pool)
    lease = pool.lease(pool.servers[1], 0.0)
    assert pool.touched == {pool.servers[1]}
    assert ranks.next() is pool.servers[0]
    assert pool.touched == set()
    lease.release()
    assert pool.touched == {pool.servers[1]}
    ranks.settle()
    assert pool.touched is None
