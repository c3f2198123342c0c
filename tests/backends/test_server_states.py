"""What an operator, a server itself and a reload make of its state."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb import config
from hermes_lb.backends import Pool
from hermes_lb.backends.server import STATES
from hermes_lb.balancing import STRATEGIES
from hermes_lb.config import Backend
from tests.support.pools import FakeRequest, FakeWaiter, make_pool, names

if TYPE_CHECKING:
    from hermes_lb.backends import Server

SLOW = {"slow_start": 16.0, "weight": 160, "max_connections": 16}


def one(**more: Any) -> Server:
    return make_pool(more, {}).servers[0]


def configured(**more: Any) -> config.Server:
    return config.Server.model_validate({"name": "a", "address": "10.0.0.1:80", **more})


# Which state it is in.


def test_the_worst_state_that_holds_is_reported():
    server, seen = one(), []
    for worse in (
        lambda: None,
        lambda: server.set_degraded("timeout after 5s"),
        lambda: server.set_admin("drain"),
        lambda: [server.failed(0.0) for _ in range(server.config.max_fails)],
        lambda: server.eject(30.0, "5 failures in a row"),
        lambda: server.set_up(False, "connection refused"),
        lambda: server.set_admin("maint"),
    ):
        worse()
        seen.append(server.state)
    assert tuple(seen) == STATES


def test_maintenance_forgets_what_checks_and_outliers_have_said():
    server = one()
    server.eject(30.0, "5 failures in a row")
    server.announce_drain("503")
    server.set_up(False, "connection refused")
    server.announce_drain("503")
    server.set_admin("maint")
    server.set_admin("ready")
    assert (server.state, server.last_check) == ("up", "")


def test_in_maintenance_no_check_counts():
    server = one()
    server.set_admin("maint")
    server.set_up(False, "connection refused")
    server.set_degraded("timeout after 5s")
    server.announce_drain("503")
    server.set_up(True, "200 in 1 ms")
    assert (server.state, server.is_up, server.last_check) == ("maint", False, "")
    server.set_admin("ready")
    assert server.state == "up"


def test_after_maintenance_one_that_starts_down_waits_for_its_check():
    server = one()
    server.await_first_check()
    server.set_up(True, "200 in 1 ms")
    server.set_admin("maint")
    server.set_admin("ready")
    assert (server.state, server.last_check) == ("down", "not checked yet")
    server.set_up(True, "200 in 1 ms")
    assert server.state == "up"


def test_marked_down_is_in_maintenance_until_an_operator_says_ready():
    server = one(down=True)
    assert (server.state, server.last_check) == ("maint", "marked down in the configuration")
    assert not server.may_serve(0.0)
    server.set_admin("ready")
    assert server.state == "up"
    assert server.may_serve(0.0)


def test_a_state_that_does_not_exist_is_refused_and_nothing_changes():
    server = one()
    with pytest.raises(ValueError, match="ready, drain or maint, not 'off'"):
        server.set_admin("off")  # type: ignore[arg-type]
    assert server.state == "up"


def test_an_announced_drain_ends_by_a_good_check_only():
    server = one()
    server.announce_drain("503, it announces its drain")
    assert (server.state, server.last_check) == ("drain", "503, it announces its drain")
    server.set_admin("drain")
    server.set_admin("ready")
    assert server.state == "drain"
    server.set_up(True, "200 in 1 ms")
    assert server.state == "up"


def test_a_good_check_does_not_end_the_drain_of_the_operator():
    server = one()
    server.announce_drain("503")
    server.set_admin("drain")
    server.set_up(True, "200 in 1 ms")
    assert (server.state, server.is_announcing_drain) == ("drain", False)


def test_a_server_that_is_down_and_announces_its_drain_stays_down():
    server = one()
    server.set_up(False, "connection refused")
    server.announce_drain("503")
    assert server.state == "down"


def test_a_busy_server_that_announces_its_drain_is_busy_no_more():
    server = one()
    server.set_degraded("timeout after 5s")
    server.announce_drain("503")
    assert not server.is_degraded
    server.set_up(True, "200 in 1 ms")
    assert server.state == "up"


def test_coming_back_from_maintenance_is_a_clean_slate():
    server = one(weight=4)
    server.failed(now=0.0)
    server.set_admin("maint")
    server.set_admin("ready")
    assert (server.fails, server.effective_weight) == (0, 4)


def test_passive_failures_outlast_a_drain():
    server = one(max_fails=1)
    server.failed(now=0.0)
    server.set_admin("drain")
    server.set_admin("ready")
    assert not server.may_serve(1.0)


# Subscribers.


@pytest.mark.parametrize("how", ["operator", "announced"])
def test_a_drained_server_serves_those_pinned_to_it_only(how: str):
    pool = make_pool({}, {})
    server = pool.servers[0]
    if how == "operator":
        server.set_admin("drain")
    else:
        server.announce_drain("503")
    assert server.may_serve(0.0)
    assert not server.can_take(0.0)
    assert names(pool.candidates((), 0.0)) == "b"


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("admin", ["drain", "maint"])
def test_no_strategy_picks_it(name: str, admin: Any):
    pool = make_pool({}, {}, {})
    pool.servers[1].set_admin(admin)
    strategy, rng = STRATEGIES[name](), Random(1)
    picked = {strategy.pick(pool, FakeRequest(f"10.{n}.1.1"), n / 9, rng) for n in range(99)}
    assert picked == {pool.servers[0], pool.servers[2]}


def test_the_backups_stand_in_for_primaries_that_all_drain():
    pool = make_pool({}, {"backup": True})
    pool.servers[0].set_admin("drain")
    assert names(pool.candidates((), 0.0)) == "b"


def test_when_all_drain_new_requests_need_not_wait():
    pool = make_pool({}, {})
    for server in pool.servers:
        server.set_admin("drain")
    assert pool.candidates((), 0.0) == []
    assert not pool.can_wait(())


def test_a_busy_server_that_drains_is_no_last_resort():
    pool = make_pool({}, {})
    pool.servers[0].set_degraded("timeout after 5s")
    pool.servers[0].set_admin("drain")
    pool.servers[1].set_up(False, "connection refused")
    assert pool.candidates((), 0.0) == []
    assert not pool.can_wait(())


def test_who_is_pinned_waits_for_a_drained_server_and_the_others_do_not():
    pool = make_pool({"max_connections": 1}, {"max_connections": 1})
    server = pool.servers[0]
    held = [pool.lease(s, 0.0) for s in pool.servers]
    pinned, free = FakeWaiter(pinned_to=server), FakeWaiter()
    pool.wait(free)
    pool.wait(pinned)
    server.set_admin("drain")
    held[0].release()
    assert (pinned.server, free.server) == ("a", None)
    pinned.leases[0].release()
    assert server.load == 0
    assert free.server is None
    held[1].release()
    assert free.server == "b"


def test_who_waits_for_a_server_goes_elsewhere_in_its_maintenance():
    pool = make_pool({"max_connections": 1}, {"max_connections": 1})
    pool.lease(pool.servers[0], 0.0)
    pinned = FakeWaiter(pinned_to=pool.servers[0])
    pool.wait(pinned)
    pool.servers[0].set_admin("maint")
    assert (pinned.pinned_to, pinned.server) == (None, "b")
    assert pool.servers[0].load == 1  # what runs there goes on


def test_who_waits_is_served_when_a_drain_ends():
    pool = make_pool({}, {"max_connections": 1})
    pool.servers[0].set_admin("drain")
    pool.lease(pool.servers[1], 0.0)
    waiter = FakeWaiter()
    pool.wait(waiter)
    pool.servers[0].set_admin("ready")
    assert waiter.server == "a"


def test_a_drain_counts_among_the_servers_that_are_out():
    """Never are more than half out: with one drained, the other of two is not ejected."""
    servers = [{"name": name, "address": f"10.0.0.{n}:80"} for n, name in enumerate("ab", 1)]
    backend = {"servers": servers, "outlier": {"consecutive_failures": 1}}
    pool = Pool("test", Backend.model_validate(backend))
    assert pool.outliers is not None
    pool.servers[0].set_admin("drain")
    pool.outliers.failed(pool.servers[1], 0.0)
    assert pool.servers[1].state == "up"
    pool.servers[0].set_admin("ready")
    pool.outliers.failed(pool.servers[1], 0.0)
    assert pool.servers[1].state == "ejected"
    pool.servers[0].set_admin("drain")
    assert pool.servers[1].state == "up"


# Slow start.


@pytest.mark.parametrize("admin", ["drain", "maint"])
def test_a_slow_start_follows(admin: Any):
    pool = make_pool(SLOW, {})
    server = pool.servers[0]
    server.set_admin(admin)
    server.set_admin("ready")
    pool.tick(0.0)
    assert (server.weight, server.max_connections) == (10, 1)
    pool.tick(19.0)
    assert (server.weight, server.max_connections) == (160, 16)


def test_a_slow_start_follows_an_announced_drain():
    pool = make_pool(SLOW, {})
    server = pool.servers[0]
    server.announce_drain("503")
    server.set_up(True, "200 in 1 ms")
    assert server.weight == 10


def test_a_drain_leaves_its_server_the_room_for_those_pinned_to_it():
    server = one(**SLOW)
    for end in (lambda: server.set_up(True, "200 in 1 ms"), lambda: server.set_admin("ready")):
        server.announce_drain("503")
        server.set_admin("drain")
        end()
        assert (server.state, server.max_connections) == ("drain", 16)


def test_from_maintenance_to_a_drain_it_starts_slowly_too():
    server = one(**SLOW)
    server.set_admin("maint")
    server.set_admin("drain")
    assert (server.state, server.weight) == ("drain", 10)


# Weights and reloads.


def test_the_operators_weight_is_taken_back_by_none():
    server = one(weight=3)
    server.set_weight(7)
    assert (server.weight, server.operator_weight) == (7, 7)
    server.set_weight(None)
    assert (server.weight, server.operator_weight) == (3, None)


def test_a_reload_keeps_what_the_operator_has_set():
    server = one(weight=3)
    server.set_weight(7)
    server.set_admin("drain")
    server.reconfigure(configured(weight=3, max_connections=9))
    assert (server.full_weight, server.state, server.max_connections) == (7, "drain", 9)


def test_a_weight_that_the_configuration_changes_holds_again():
    server = one(weight=3)
    server.set_weight(7)
    server.set_admin("drain")
    server.reconfigure(configured(weight=4))
    assert (server.weight, server.operator_weight, server.state) == (4, None, "drain")


def test_marking_it_down_and_up_by_the_configuration_overrules_the_operator():
    server = one()
    server.set_admin("drain")
    server.reconfigure(configured(down=True))
    assert server.state == "maint"
    server.set_admin("drain")
    server.reconfigure(configured(down=True, weight=2))
    assert server.state == "drain"
    server.reconfigure(configured(weight=2))
    assert server.state == "up"


def test_a_reload_in_the_middle_of_a_slow_start_goes_on_with_it():
    pool = make_pool(SLOW, {})
    server = pool.servers[0]
    server.set_up(False, "")
    server.set_up(True, "")
    pool.tick(0.0)
    pool.tick(7.5)
    server.reconfigure(configured(**{**SLOW, "weight": 10}))
    assert (server.weight, server.max_connections) == (5, 8)
    server.reconfigure(configured(weight=10))
    assert (server.weight, server.max_connections) == (10, 0)


# Other processes.


def test_a_snapshot_makes_another_server_the_same():
    pool, other = make_pool(SLOW, {}), one(**SLOW)
    server = pool.servers[0]
    server.set_up(False, "connection refused")
    server.set_up(True, "200 in 1 ms")
    pool.tick(0.0)
    pool.tick(4.0)
    server.set_weight(60)
    server.eject(30.0, "5 failures in a row")
    server.set_admin("drain")
    other.restore(json.loads(json.dumps(server.snapshot())))
    assert other.snapshot() == server.snapshot()
    assert repr(other) == repr(server)
    assert (other.weight, other.max_connections) == (60 * 5 / 16, 5)


def test_what_a_snapshot_leaves_out_stays():
    server = one()
    server.eject(30.0, "5 failures in a row")
    server.restore({"admin": "drain", "operator_weight": 7})
    assert (server.state, server.full_weight, server.is_draining) == ("ejected", 7, True)


def test_who_comes_up_by_a_snapshot_starts_with_a_clean_slate():
    server, other = one(), one()
    for verdict in (False, True):
        server.failed(now=0.0)
        other.set_up(verdict, "")
        server.restore(other.snapshot())
    assert (server.state, server.fails) == ("up", 0)


def test_each_decision_is_reported_once():
    pool, told = make_pool({**SLOW, "max_fails": 1}, {}), []
    pool.on_change = lambda server: told.append((server.name, server.state))
    server = pool.servers[0]
    server.set_up(True, "200 in 1 ms")
    server.failed(0.0)
    assert told == []
    server.set_up(False, "connection refused")
    server.set_up(False, "connection refused")
    server.set_up(True, "200 in 1 ms")
    pool.tick(0.0)
    pool.tick(5.0)
    server.set_weight(9)
    server.set_weight(9)
    server.set_admin("drain")
    server.set_admin("drain")
    server.restore(server.snapshot())
    server.restore({"last_check": "another"})
    assert server.last_check == "another"
    assert told == [("a", "down"), ("a", "up"), ("a", "up"), ("a", "drain")]


def test_the_pool_knows_already_when_a_decision_is_reported():
    pool, seen = make_pool({}, {}), []
    pool.on_change = lambda server: seen.append(names(pool.candidates((), 0.0)))
    pool.servers[0].set_admin("maint")
    assert seen == ["b"]
