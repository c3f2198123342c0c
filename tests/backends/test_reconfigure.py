"""Another configuration, in place: kept servers, removed servers, and queued requests."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hermes_lb.backends import Lease, Pool, Server
from hermes_lb.balancing import STRATEGIES
from hermes_lb.config import Backend
from tests.support.examples import examples
from tests.support.pools import FakeRequest, FakeWaiter, names

OUTLIER = {"consecutive_failures": 1, "ejection_time": 30.0}


def backend(*servers: str | dict[str, Any], **more: Any) -> Backend:
    """Of servers by name, at addresses by name, unless they say otherwise."""
    tables = [{"name": one} if isinstance(one, str) else one for one in servers]
    return Backend.model_validate(
        {"servers": [{"address": f"{one['name']}.internal:80", **one} for one in tables], **more}
    )


def pool_of(*servers: str | dict[str, Any], **more: Any) -> Pool:
    return Pool("test", backend(*servers, **more), rng=Random(0))


def in_flight(pool: Pool) -> list[int]:
    return [pool.in_flight, *(server.in_flight for server in pool.servers)]


# Kept servers.


def test_a_server_stays_the_same_with_its_counts_and_its_state():
    pool = pool_of("a", "b")
    a, b = pool.servers
    pool.lease(b, 0.0)
    b.counters.bytes_in = 10
    b.set_admin("drain")
    assert pool.reconfigure(backend("new", {"name": "b", "weight": 7}, "a")) == []
    assert pool.servers[1:] == [b, a]
    assert pool.servers[0] not in (a, b)
    assert in_flight(pool) == [1, 0, 1, 0]
    assert (b.counters.bytes_in, b.state, b.weight) == (10, "drain", 7)
    assert names(pool.candidates((), 0.0)) == "new a"


@pytest.mark.parametrize(
    "change",
    [
        {"weight": 5},
        {"max_connections": 3},
        {"max_fails": 9},
        {"slow_start": 5.0},
        {"backup": True},
    ],
)
def test_whatever_changes_but_its_address_it_stays(change: dict[str, Any]):
    pool = pool_of("a", "b")
    before = pool.servers[0]
    assert pool.reconfigure(backend({"name": "a", **change}, "b")) == []
    assert pool.servers[0] is before
    (key, value) = next(iter(change.items()))
    assert getattr(before.config, key) == value


@pytest.mark.parametrize("change", [{"name": "c", "address": "a.internal:80"}, {"address": "x:80"}])
def test_by_another_name_or_at_another_address_it_is_another(change: dict[str, Any]):
    pool = pool_of("a", "b")
    a = pool.servers[0]
    a.set_up(False, "")
    assert pool.reconfigure(backend({"name": "a", **change}, "b")) == [a]
    assert pool.servers[0] is not a
    assert pool.servers[0].state == "up"
    assert a.state == "maint"


def test_primaries_and_backups_change_places():
    pool = pool_of("a", {"name": "b", "backup": True})
    a, b = pool.servers
    pool.reconfigure(backend({"name": "a", "backup": True}, "b"))
    assert (pool.primaries, pool.backups, pool.up) == ([b], [a], [b])


def test_a_lone_server_is_one_only_as_long_as_it_is():
    pool = pool_of("a")
    a = pool.servers[0]
    assert a.is_only_server
    pool.reconfigure(backend("a", "b"))
    assert not a.is_only_server
    pool.reconfigure(backend("a"))
    assert a.is_only_server


def test_what_the_operator_set_outlives_a_reload_that_is_not_about_it():
    pool = pool_of("a", "b")
    a = pool.servers[0]
    a.set_weight(9)
    pool.reconfigure(backend({"name": "a", "max_connections": 5}, "b"))
    assert (a.weight, pool.weights) == (9, (9, 1))
    pool.reconfigure(backend({"name": "a", "weight": 3}, "b"))
    assert (a.weight, pool.weights) == (3, (3, 1))


def test_down_in_the_configuration_is_maintenance_and_ends_with_it():
    pool = pool_of("a", "b")
    a = pool.servers[0]
    pool.reconfigure(backend({"name": "a", "down": True}, "b"))
    assert (a.state, names(pool.up)) == ("maint", "b")
    pool.reconfigure(backend("a", "b"))
    assert (a.state, names(pool.up)) == ("up", "a b")


# Removed servers.


def test_leases_on_a_server_that_is_gone_go_on_and_end():
    pool = pool_of("a", "b")
    a = pool.servers[0]
    lease = pool.lease(a, 0.0)
    assert pool.reconfigure(backend("b")) == [a]
    assert in_flight(pool) == [1, 0]
    lease.release()
    assert in_flight(pool) == [0, 0]
    assert a.in_flight == 0


def test_a_server_that_is_gone_tells_nobody_and_changes_nothing():
    pool = pool_of("a", "b")
    told: list[Server] = []
    pool.on_change = told.append
    (a,) = pool.reconfigure(backend("b"))
    version = pool.version
    a.set_admin("ready")
    a.failed(0.0)
    a.set_up(False, "")
    assert (told, pool.version, names(pool.up)) == ([], version, "b")


def test_who_comes_back_is_new():
    pool = pool_of("a", "b")
    (gone,) = pool.reconfigure(backend("b"))
    pool.reconfigure(backend("a", "b"))
    assert pool.servers[0] is not gone
    assert pool.servers[0].state == "up"


# Queued requests.


def full(*servers: str) -> tuple[Pool, list[Lease]]:
    pool = pool_of(*[{"name": name, "max_connections": 1} for name in servers])
    return pool, [pool.lease(server, 0.0) for server in pool.servers]


def test_who_waits_for_one_that_is_gone_takes_its_place_in_the_common_queue():
    pool, (_, lease) = full("a", "b")
    pinned, other = FakeWaiter(pinned_to=pool.servers[0]), FakeWaiter()
    pool.wait(pinned)
    pool.wait(other)
    (a,) = pool.reconfigure(backend({"name": "b", "max_connections": 1}))
    pool.look_at_queue()
    assert (pinned.pinned_to, a.queued) == (None, 0)
    lease.release()
    assert (pinned.server, other.server) == ("b", None)


def test_a_new_server_serves_who_waits():
    pool, _ = full("a")
    first, second = FakeWaiter(), FakeWaiter()
    pool.wait(first)
    pool.wait(second)
    limited = {"max_connections": 1}
    pool.reconfigure(backend({"name": "a", **limited}, {"name": "new", **limited}))
    pool.look_at_queue()
    assert (first.server, second.server) == ("new", None)
    assert in_flight(pool) == [2, 1, 1]


def test_more_room_serves_who_waits():
    pool, _ = full("a")
    pinned = FakeWaiter(pinned_to=pool.servers[0])
    pool.wait(pinned)
    pool.reconfigure(backend({"name": "a", "max_connections": 2}))
    pool.look_at_queue()
    assert pinned.server == "a"


def test_nobody_is_served_before_all_is_ready_for_the_new_servers():
    pool, _ = full("a")
    waiter = FakeWaiter()
    pool.wait(waiter)
    pool.reconfigure(backend({"name": "a", "max_connections": 1}, "new"))
    assert waiter.server is None
    pool.look_at_queue()
    assert waiter.server == "new"


def test_less_room_ends_nothing():
    pool = pool_of({"name": "a", "max_connections": 3})
    leases = [pool.lease(pool.servers[0], 0.0) for _ in range(3)]
    pool.reconfigure(backend({"name": "a", "max_connections": 1}))
    waiter = FakeWaiter()
    pool.wait(waiter)
    for lease in leases[:2]:
        lease.release()
        assert waiter.server is None
    leases[2].release()
    assert waiter.server == "a"


# Outliers.


def eject(pool: Pool, name: str) -> Server:
    server = next(server for server in pool.servers if server.name == name)
    assert pool.outliers is not None
    pool.outliers.failed(server, 0.0)
    assert server.is_ejected
    return server


def test_with_the_same_rules_and_servers_a_detector_goes_on():
    pool = pool_of("a", "b", "c", outlier=OUTLIER)
    before = pool.outliers
    a = eject(pool, "a")
    pool.reconfigure(backend({"name": "a", "weight": 2}, "b", "c", outlier=OUTLIER))
    assert pool.outliers is before
    assert a.is_ejected


@pytest.mark.parametrize("what", ["rules", "servers"])
def test_with_others_it_starts_again_and_ejections_still_end(what: str):
    pool = pool_of("a", "b", "c", outlier=OUTLIER)
    before = pool.outliers
    a = eject(pool, "a")
    if what == "rules":
        pool.reconfigure(backend("a", "b", "c", outlier={**OUTLIER, "interval": 5.0}))
    else:
        pool.reconfigure(backend("a", "b", "c", "d", outlier=OUTLIER))
    assert pool.outliers is not before
    assert a.is_ejected
    pool.tick(29.0)
    assert a.is_ejected
    pool.tick(34.0)
    assert a.state == "up"


def test_without_a_detector_all_are_back():
    pool = pool_of("a", "b", "c", outlier=OUTLIER)
    a = eject(pool, "a")
    pool.reconfigure(backend("a", "b", "c"))
    assert pool.outliers is None
    assert names(pool.up) == "a b c"
    assert a.state == "up"


def test_too_few_that_are_left_end_the_ejections():
    pool = pool_of("a", "b", "c", outlier=OUTLIER)
    a = eject(pool, "a")
    pool.reconfigure(backend("a", outlier=OUTLIER))
    assert a.state == "up"


def test_a_detector_may_come_later():
    pool = pool_of("a", "b", "c")
    assert pool.outliers is None
    pool.reconfigure(backend("a", "b", "c", outlier=OUTLIER))
    eject(pool, "b")


# Strategies, over any number of reconfigurations.

SERVER = st.tuples(
    st.integers(0, 7), st.sampled_from(["x", "x", "y"]), st.sampled_from([1, 1, 1, 2, 3])
)
CONFIGURATION = st.lists(SERVER, min_size=1, max_size=4, unique_by=lambda server: server[0])
EVENT = st.tuples(
    st.sampled_from(["pick", "pick", "pick", "release", "fail", "down", "up"]), st.integers(0, 99)
)
STEPS = st.lists(CONFIGURATION.map(lambda c: ("reload", c)) | EVENT, max_size=40)
MANY = 34  # above which some strategies keep their servers in order


def configuration(drawn: list[tuple[int, str, int]], *, are_many: bool) -> Backend:
    """(name, address, weight) of some; each of them stands for many if `are_many`."""
    copies = MANY if are_many else 1
    return backend(
        *[
            {
                "name": f"s{name}-{copy}",
                "address": f"{where}{name}-{copy}:80",
                "weight": weight,
                "max_fails": 1,
                "max_connections": 3 * (name % 2),
            }
            for name, where, weight in drawn
            for copy in range(copies)
        ]
    )


class Traffic:
    """Steps of the same kind on one pool; `pick` is a strategy's, or a copy of nginx's loops."""

    def __init__(self, pool: Pool, pick: Any) -> None:
        self.pool = pool
        self.picked: list[str] = []
        self._pick = pick
        self._leases: list[Lease] = []
        self._rng = Random(7)

    def step(self, event: str, given: Any, now: float, *, are_many: bool) -> None:
        pool = self.pool
        servers = pool.servers
        match event:
            case "reload":
                pool.reconfigure(configuration(given, are_many=are_many))
            case "pick":
                tried = servers[:1] if given % 5 == 0 else []
                candidates = list(pool.candidates(tried, now))
                request = FakeRequest(f"10.{given}.0.1", tried)
                server = self._pick(pool, request, now, self._rng)
                assert server in candidates if server else not candidates
                self.picked.append(server.name if server else "-")
                if server is not None:
                    self._leases.append(pool.lease(server, now))
            case "release" if self._leases:
                self._leases.pop(given % len(self._leases)).release()
            case "fail":
                servers[given % len(servers)].failed(now)
            case "down" | "up":
                servers[given % len(servers)].set_up(event == "up", "")

    def end(self) -> None:
        """All that runs ends, and nothing is left."""
        assert self.pool.in_flight == len(self._leases)
        for lease in self._leases:
            lease.release()
        assert not any(in_flight(self.pool))


def loops(*, by_load: bool) -> Any:
    """nginx's loops over all candidates."""

    def pick(pool: Pool, request: FakeRequest, now: float, rng: Random) -> Server | None:
        candidates = list(pool.candidates(request.tried, now))
        if by_load and candidates:
            least = min(server.load / server.weight for server in candidates)
            candidates = [s for s in candidates if s.load / s.weight == least]
            if len(candidates) == 1:
                return candidates[0]
        best: Server | None = None
        total = 0.0
        for server in candidates:
            server.current_weight += server.effective_weight
            total += server.effective_weight
            if server.effective_weight < server.weight:
                server.effective_weight += 1
            if best is None or server.current_weight > best.current_weight:
                best = server
        if best is not None:
            best.current_weight -= total
        return best

    return pick


START = [(0, "x", 1), (1, "x", 2)]


@pytest.mark.parametrize("are_many", [False, True])
@pytest.mark.parametrize("name", sorted(STRATEGIES))
@examples(10)
@given(steps=STEPS)
def test_every_strategy_goes_on_over_reconfigurations(name: str, are_many: bool, steps: Any):
    pool = Pool("test", configuration(START, are_many=are_many), rng=Random(0))
    traffic = Traffic(pool, STRATEGIES[name]().pick)
    for now, (event, given_with_it) in enumerate(steps):
        traffic.step(event, given_with_it, now, are_many=are_many)
    traffic.end()


@pytest.mark.parametrize("are_many", [False, True])
@pytest.mark.parametrize("name", ["round_robin", "leastconn"])
@examples(15)
@given(steps=STEPS)
def test_turns_over_reconfigurations_are_those_of_nginx(name: str, are_many: bool, steps: Any):
    pools = [Pool("test", configuration(START, are_many=are_many)) for _ in range(2)]
    kept = Traffic(pools[0], STRATEGIES[name]().pick)
    told = Traffic(pools[1], loops(by_load=name == "leastconn"))
    for now, (event, given_with_it) in enumerate(steps):
        for traffic in (kept, told):
            traffic.step(event, given_with_it, now, are_many=are_many)
    assert kept.picked == told.picked


@pytest.mark.parametrize("name", ["consistent_hash", "maglev", "ip_hash"])
@examples(20)
@given(configurations=st.lists(CONFIGURATION, min_size=1, max_size=4))
@example([[(0, "x", 1), (1, "x", 1)], [(0, "x", 1), (2, "x", 1)]])
@example([[(0, "x", 1), (1, "x", 1)], [(1, "x", 1), (0, "x", 1)]])
@example([[(0, "x", 1), (1, "x", 1)], [(0, "y", 1), (1, "x", 1)]])
def test_a_key_lives_where_it_would_if_the_balancer_had_started_so(name: str, configurations: Any):
    pool, strategy = Pool("test", configuration(START, are_many=False)), STRATEGIES[name]
    kept, rng = strategy(), Random(0)
    for drawn in configurations:
        pool.reconfigure(configuration(drawn, are_many=False))
        fresh, anew = make_fresh(drawn), strategy()
        for key in range(20):
            request = FakeRequest(f"10.{key}.0.1")
            homes = [
                one.pick(where, request, 0.0, rng) for one, where in ((kept, pool), (anew, fresh))
            ]
            assert len({server.config.address for server in homes if server}) == 1


def make_fresh(drawn: list[tuple[int, str, int]]) -> Pool:
    return Pool("test", configuration(drawn, are_many=False))
