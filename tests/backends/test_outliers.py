"""Outlier ejection: who fails while the others do not, for how long, and never too many."""

from __future__ import annotations

import logging
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from tests.support.pools import FakeWaiter, names

if TYPE_CHECKING:
    from hermes_lb.backends.outliers import Outliers


class NoJitter(Random):
    def random(self) -> float:
        return 0.0


def a_pool(count: int, *, rng: Random | None = None, **outlier: Any) -> Pool:
    """Servers a, b, c, ...; a failure in a row is enough unless `outlier` says otherwise."""
    servers = [
        {"name": chr(ord("a") + i), "address": f"10.0.0.{i + 1}:80", "max_fails": 0}
        for i in range(count)
    ]
    outlier = {"consecutive_failures": 1, "ejection_time": 10.0, "interval": 5.0} | outlier
    configured = Backend.model_validate({"servers": servers, "outlier": outlier})
    pool = Pool("agents", configured, rng=rng or NoJitter())
    pool.tick(0.0)
    return pool


def detector(pool: Pool) -> Outliers:
    assert pool.outliers is not None
    return pool.outliers


def states(pool: Pool) -> str:
    return " ".join(server.state for server in pool.servers)


def test_it_is_off_without_its_table():
    servers = [{"name": "a", "address": "10.0.0.1:80"}]
    assert Pool("agents", Backend.model_validate({"servers": servers})).outliers is None


def test_failures_in_a_row():
    pool = a_pool(2, consecutive_failures=3)
    server = pool.servers[0]
    for _ in range(2):
        detector(pool).failed(server, 0.0)
    detector(pool).answered(server, 404, 0.0)  # the client's fault
    detector(pool).failed(server, 0.0)
    detector(pool).answered(server, 503, 0.0)
    assert states(pool) == "up up"
    detector(pool).answered(server, 500, 0.0)
    assert states(pool) == "ejected up"
    assert server.ejected_because == "3 failures in a row"
    assert names(pool.candidates((), 0.0)) == "b"


def test_who_is_pinned_to_it_goes_elsewhere():
    pool = a_pool(2)
    server = pool.servers[0]
    waiter = FakeWaiter(pinned_to=server)
    pool.wait(waiter)
    detector(pool).failed(server, 0.0)
    assert not server.may_serve(0.0)
    assert waiter.server == "b"


@pytest.mark.parametrize(
    ("failures", "answers", "state"),
    [(4, 10, "up"), (5, 10, "ejected"), (9, 9, "up"), (10, 10, "ejected"), (0, 50, "up")],
)
def test_a_share_of_failures_over_an_interval(failures: int, answers: int, state: str):
    pool = a_pool(2, consecutive_failures=0, failure_share=0.5, min_requests=10)
    server = pool.servers[0]
    for n in range(answers):
        detector(pool).answered(server, 500 if n < failures else 200, 1.0)
    pool.tick(4.9)
    assert server.state == "up"
    pool.tick(5.0)
    assert server.state == state


def test_each_interval_is_judged_alone():
    pool = a_pool(2, consecutive_failures=0, failure_share=0.5, min_requests=10)
    for end in (5.0, 10.0):
        for _ in range(9):
            detector(pool).failed(pool.servers[0], end - 1)
        pool.tick(end)
    assert states(pool) == "up up"


def test_a_share_of_zero_turns_it_off():
    pool = a_pool(2, consecutive_failures=0, failure_share=0.0, min_requests=1)
    for _ in range(100):
        detector(pool).failed(pool.servers[0], 1.0)
    pool.tick(5.0)
    assert states(pool) == "up up"


def test_it_comes_back_by_time_alone_and_starts_again():
    pool = a_pool(2, consecutive_failures=2)
    server = pool.servers[0]
    for _ in range(2):
        detector(pool).failed(server, 0.0)
    detector(pool).failed(server, 0.0)  # a request that was under way
    server.set_up(True, "200 in 1 ms")
    pool.tick(9.9)
    assert states(pool) == "ejected up"
    pool.tick(10.0)
    assert states(pool) == "up up"
    detector(pool).failed(server, 10.0)
    assert states(pool) == "up up"


def test_each_time_is_longer_up_to_the_longest():
    pool = a_pool(2, max_ejection_time=25.0, interval=1e6)
    server, now, lengths = pool.servers[0], 0.0, []
    for _ in range(4):
        detector(pool).failed(server, now)
        lengths.append(server.ejected_until - now)
        now = server.ejected_until
        pool.tick(now)
    assert lengths == [10.0, 20.0, 25.0, 25.0]
    assert server.ejections == 4


def test_intervals_without_an_ejection_are_forgiving():
    pool = a_pool(2)
    server = pool.servers[0]
    detector(pool).failed(server, 0.0)
    pool.tick(10.0)  # back; and an interval has ended
    detector(pool).failed(server, 11.0)
    assert server.ejected_until - 11.0 == 10.0


def test_times_are_jittered_by_up_to_a_tenth():
    lengths = set()
    for seed in range(50):
        pool = a_pool(2, rng=Random(seed))
        detector(pool).failed(pool.servers[0], 0.0)
        lengths.add(pool.servers[0].ejected_until)
    assert len(lengths) == 50
    assert all(10.0 <= length <= 11.0 for length in lengths)


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (7, 3)])
def test_never_more_than_half(count: int, most: int):
    pool = a_pool(count)
    for server in pool.servers:
        detector(pool).failed(server, 0.0)
    assert states(pool) == " ".join(["ejected"] * most + ["up"] * (count - most))


@pytest.mark.parametrize("how", ["down", "degraded", "drained"])
def test_those_that_are_out_in_another_way_count(how: str):
    pool = a_pool(4)
    for server in pool.servers[:2]:
        if how == "down":
            server.set_up(False, "")
        elif how == "degraded":
            server.set_degraded("")
        else:
            server.set_weight(0)
    detector(pool).failed(pool.servers[3], 0.0)
    assert pool.servers[3].state == "up"


def test_if_more_than_half_are_out_all_ejections_end(caplog: pytest.LogCaptureFixture):
    pool = a_pool(6)
    for server in pool.servers[:2]:
        detector(pool).failed(server, 0.0)
    pool.servers[5].set_up(False, "connection refused")
    assert states(pool) == "ejected ejected up up up down"
    caplog.clear()
    pool.servers[4].set_up(False, "connection refused")
    assert states(pool) == "up up up up down down"
    assert names(pool.candidates((), 0.0)) == "a b c d"
    assert [record.getMessage() for record in caplog.records] == [
        "agents/a is back: too many servers are out",
        "agents/b is back: too many servers are out",
    ]


def test_down_ends_an_ejection():
    pool = a_pool(2)
    server = pool.servers[0]
    detector(pool).failed(server, 0.0)
    server.set_up(False, "connection refused")
    server.set_up(True, "200 in 1 ms")
    assert states(pool) == "up up"


def test_a_server_that_is_down_or_out_already_is_not_ejected_again():
    pool = a_pool(4)
    server = pool.servers[0]
    server.set_up(False, "")
    detector(pool).failed(server, 0.0)
    server.set_up(True, "")
    detector(pool).failed(server, 0.0)
    detector(pool).failed(server, 5.0)
    assert (server.ejections, server.ejected_until) == (1, 10.0)


def test_changes_are_one_line_each_in_the_log(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "hermes_lb.health")
    pool = a_pool(2)
    detector(pool).failed(pool.servers[0], 0.0)
    assert repr(pool.outliers) == "<Outliers of agents, ejected: a>"
    pool.tick(10.0)
    assert repr(pool.outliers) == "<Outliers of agents, ejected: none>"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "agents/a is EJECTED for 10.0 s: 1 failures in a row"),
        ("INFO", "agents/a is back: its time is over"),
    ]


def test_who_is_out_for_a_time_that_is_over_counts_no_more():
    """Before the `tick` that would end it; the others' failures do not wait for that."""
    pool = a_pool(4)
    a, b, c, d = pool.servers
    for server in (c, d):
        detector(pool).failed(server, 0.0)
    for server in (a, b):
        detector(pool).failed(server, 10.5)
    assert states(pool) == "ejected ejected up up"


def test_a_process_that_is_notified_lifts_nothing_by_itself():
    """It hears of ejections one by one, in whatever order; who tells knows when it is too much."""
    pool = a_pool(4)
    pool.is_leading = False
    for server in pool.servers[:3]:
        server.restore({"ejected_until": 10.0, "ejected_because": "5 failures in a row"})
    assert states(pool) == "ejected ejected ejected up"
    pool.servers[0].restore({"ejected_until": 0.0})
    assert states(pool) == "up ejected ejected up"


def test_who_was_ejected_by_another_process_comes_back_with_a_clean_slate():
    pool = a_pool(2, consecutive_failures=3)
    server = pool.servers[0]
    for _ in range(2):
        detector(pool).failed(server, 0.0)
    server.restore({"ejected_until": 10.0, "ejected_because": "3 in a row", "ejections": 1})
    server.restore({"ejected_until": 0.0})
    for _ in range(2):
        detector(pool).failed(server, 11.0)
    assert states(pool) == "up up"
    detector(pool).failed(server, 11.0)
    assert states(pool) == "ejected up"
