"""`least_sessions` and `session_stealing`: which server a session has, and when another one."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.balancing.least_sessions import LeastSessions, SessionOptions
from hermes_lb.balancing.session_stealing import SessionStealing, StealingOptions
from tests.support.pools import FakeRequest, make_pool
from tests.support.strategies import many

if TYPE_CHECKING:
    from hermes_lb.backends import Lease, Pool
    from hermes_lb.balancing import Strategy


def begin(strategy: Strategy, pool: Pool, key: str, now: float = 0.0) -> Lease:
    request = FakeRequest(key)
    server = strategy.pick(pool, request, now, Random(1))
    assert server is not None
    return pool.lease(server, now, request)


def turn(strategy: Strategy, pool: Pool, key: str, now: float = 0.0) -> str:
    lease = begin(strategy, pool, key, now)
    lease.release(100)
    return lease.server.name


@given(size=st.integers(2, 40), sessions=st.integers(1, 80))
def test_new_sessions_go_where_the_fewest_are(size: int, sessions: int) -> None:
    """Although nothing is in flight."""
    pool, strategy = many(size), LeastSessions()
    for number in range(sessions):
        turn(strategy, pool, f"s{number}")
        counts = [strategy.count(server) for server in pool.servers]
        assert max(counts) - min(counts) <= 1
    assert sum(counts) == sessions


def test_a_heavier_server_has_more_sessions() -> None:
    pool, strategy = make_pool({"weight": 1}, {"weight": 3}), LeastSessions()
    for number in range(80):
        turn(strategy, pool, f"s{number}")
    assert [strategy.count(server) for server in pool.servers] == [20, 60]


def test_a_session_keeps_its_server_and_moves_only_when_that_is_out() -> None:
    pool, strategy = many(3), LeastSessions()
    home = {key: turn(strategy, pool, key) for key in "abcdef"}
    assert {key: turn(strategy, pool, key, 100.0) for key in "abcdef"} == home
    lost = pool.servers[0]
    lost.set_up(False, "")
    moved = {key: turn(strategy, pool, key, 200.0) for key in "abcdef"}
    assert lost.name not in moved.values()
    assert strategy.count(lost) == 0
    lost.set_up(True, "")
    assert {key: turn(strategy, pool, key, 300.0) for key in "abcdef"} == moved


@pytest.mark.parametrize("kind", [LeastSessions, SessionStealing])
def test_a_session_leaves_a_backup_once_a_primary_serves(
    kind: type[LeastSessions | SessionStealing],
) -> None:
    pool, strategy = make_pool({}, {"backup": True}), kind()
    primary, backup = pool.servers
    primary.set_up(False, "")
    assert [turn(strategy, pool, "s", now) for now in (0.0, 1.0)] == [backup.name] * 2
    primary.set_up(True, "")
    assert turn(strategy, pool, "s", 2.0) == primary.name


def test_a_server_that_leaves_takes_its_sessions_with_it() -> None:
    pool, strategy = many(3), LeastSessions()
    running = [begin(strategy, pool, f"s{number}") for number in range(30)]
    gone = pool.servers[1]
    gone.set_weight(0)
    for number in range(30):
        assert turn(strategy, pool, f"s{number}", 1.0) != gone.name
    for lease in running:
        lease.release()
    strategy.forget(gone)
    assert strategy.count(gone) == 0
    assert set(strategy._counts) == set(pool.servers) - {gone}


def test_sessions_that_are_over_do_not_count() -> None:
    pool, strategy = many(2), LeastSessions(SessionOptions(idle=60.0))
    for number in range(10):
        turn(strategy, pool, f"s{number}", 0.0)
    for number in range(4):
        turn(strategy, pool, f"t{number}", 100.0)
    assert sum(strategy.count(server) for server in pool.servers) == 4


def test_a_strategy_that_is_replaced_lets_go_of_the_pool() -> None:
    pool, strategy, other = many(3), LeastSessions(), SessionStealing()
    lease = begin(strategy, pool, "a")
    strategy.detach(pool)
    assert pool.follower is None
    begin(other, pool, "a").release()
    assert pool.follower is other
    lease.release()  # its ticket is of the first one
    assert strategy._sessions.find(b"a", 0.0).running == 0  # type: ignore[union-attr]


class TestStealing:
    """A server with `gap` requests less takes a session, at the beginning of a turn."""

    def test_only_between_turns(self) -> None:
        pool, strategy = many(2), SessionStealing(StealingOptions(gap=3.0, rest=0.0))
        own = begin(strategy, pool, "a").server
        (other,) = (server for server in pool.servers if server is not own)
        for _ in range(5):
            pool.lease(own, 0.0)
        assert begin(strategy, pool, "a").server is own  # another request of it runs there
        assert own.in_flight == 7
        assert other.in_flight == 0

    def test_a_loaded_server_loses_it_and_the_session_stays_where_it_went(self) -> None:
        pool, strategy = many(2), SessionStealing(StealingOptions(gap=3.0))
        own = turn(strategy, pool, "a")
        server = next(one for one in pool.servers if one.name == own)
        busy = [pool.lease(server, 0.0) for _ in range(2)]
        assert turn(strategy, pool, "a", 60.0) == own  # two more are not enough
        busy.append(pool.lease(server, 60.0))
        moved = turn(strategy, pool, "a", 61.0)
        assert moved != own
        for lease in busy:
            lease.release()
        assert turn(strategy, pool, "a", 100.0) == moved

    def test_it_rests_after_a_move(self) -> None:
        pool, strategy = many(2), SessionStealing(StealingOptions(gap=1.0, rest=30.0))
        first = turn(strategy, pool, "a", 0.0)
        one = next(server for server in pool.servers if server.name == first)
        pool.lease(one, 0.0)
        second = turn(strategy, pool, "a", 30.0)
        assert second != first
        other = next(server for server in pool.servers if server.name == second)
        for _ in range(9):
            pool.lease(other, 30.0)
        assert turn(strategy, pool, "a", 59.9) == second
        assert turn(strategy, pool, "a", 60.0) == first

    @given(
        weights=st.lists(st.integers(1, 9), min_size=2, max_size=6),
        requests=st.lists(st.integers(0, 30), max_size=60),
    )
    def test_no_server_is_worse_by_more_than_the_gap(
        self, weights: list[int], requests: list[int]
    ) -> None:
        """For sessions with one request at a time, which is what a turn is."""
        pool = make_pool(*[{"weight": weight} for weight in weights])
        strategy = SessionStealing(StealingOptions(gap=2.0, rest=0.0))
        running: dict[int, Lease] = {}
        for key in requests:
            if key in running:
                running.pop(key).release()
                continue
            running[key] = lease = begin(strategy, pool, str(key), 1.0)
            loads = {s: strategy._load(pool, s) for s in pool.servers}
            own = loads[lease.server] - sum(weights) / len(weights) / lease.server.weight
            assert own - min(loads.values()) < 2.0 + 1e-9
        assert Counter(lease.server for lease in running.values()) == {
            s: s.in_flight for s in pool.servers if s.in_flight
        }
