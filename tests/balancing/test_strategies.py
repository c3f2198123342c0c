"""Properties of every strategy."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.balancing import STRATEGIES, Learner, Tracker
from hermes_lb.balancing.hashing import HashOptions
from hermes_lb.config import Backend
from tests.support.pools import FakeRequest, make_pool
from tests.support.strategies import FakeAnswer, assert_shares, many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.backends import Lease, Pool, Server
    from hermes_lb.balancing import Strategy

every_strategy = pytest.mark.parametrize("name", sorted(STRATEGIES))

SERVERS = st.lists(
    st.fixed_dictionaries(
        {
            "weight": st.integers(1, 9),
            "max_connections": st.integers(0, 2),
            "max_fails": st.integers(0, 2),
            "down": st.booleans(),
            "backup": st.booleans(),
        }
    ),
    min_size=1,
    max_size=5,
)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["pick", "fail", "release"]), st.integers(0, 9)), max_size=30
)


def play(name: str, servers: list[dict[str, Any]], events: list[tuple[str, int]]) -> list[str]:
    """Some traffic; returns what was picked, having checked that it was a candidate."""
    pool, strategy, rng = make_pool(*servers), STRATEGIES[name](), Random(1)
    leases, picked = [], []
    for now, (event, number) in enumerate(events):
        if event == "pick":
            tried = pool.servers[:1] if number == 0 else []
            candidates = list(pool.candidates(tried, now))
            request = FakeRequest(f"10.{number}.0.1", tried)
            server = strategy.pick(pool, request, now, rng)
            if isinstance(strategy, Tracker):
                candidates = [one for one in candidates if strategy.has_room(one, now)]
            assert server in candidates if server else not candidates
            picked.append(server.name if server else "-")
            if server:
                leases.append(pool.lease(server, now, request))
        elif event == "fail":
            pool.servers[number % len(pool.servers)].failed(now)
        elif leases:
            leases.pop(number % len(leases)).release()
    return picked


@every_strategy
@given(servers=SERVERS, events=EVENTS)
def test_picks_a_candidate_and_the_same_again(name: str, servers: Any, events: Any):
    assert play(name, servers, events) == play(name, servers, events)


@every_strategy
def test_holds_no_lease(name: str):
    pool = make_pool({}, {})
    STRATEGIES[name]().pick(pool, FakeRequest("10.0.0.1"), 0.0, Random(0))
    assert [server.in_flight for server in pool.servers] == [0, 0]


def picked(name: str, pool: Pool, tried: Sequence[Server] = (), count: int = 60) -> set[str]:
    """All servers picked for requests from many clients."""
    strategy, rng = STRATEGIES[name](), Random(5)
    found = [strategy.pick(pool, FakeRequest(f"10.{i}.0.1", tried), 0.0, rng) for i in range(count)]
    return {server.name if server else "-" for server in found}


@every_strategy
def test_a_lone_server(name: str):
    assert picked(name, make_pool({})) == {"a"}


@every_strategy
def test_all_down(name: str):
    assert picked(name, make_pool({"down": True})) == {"-"}
    assert picked(name, make_pool({"down": True}, {"down": True})) == {"-"}


@every_strategy
def test_all_tried(name: str):
    pool = make_pool({}, {}, {})
    assert picked(name, pool, tried=pool.servers) == {"-"}


@every_strategy
def test_everyone_gets_something(name: str):
    assert picked(name, make_pool({}, {}, {})) == {"a", "b", "c"}


@every_strategy
def test_the_only_one_that_can(name: str):
    """Beside one that is down, full, failed, drained (weight 0), tried, and a backup."""
    pool = make_pool(
        {"down": True, "weight": 50},
        {"max_connections": 1, "weight": 50},
        {"max_fails": 1, "weight": 50},
        {"weight": 50},
        {"weight": 50},
        {"backup": True, "weight": 50},
        {},
    )
    pool.lease(pool.servers[1], 0.0)
    pool.servers[2].failed(0.0)
    pool.servers[3].set_weight(0)
    assert picked(name, pool, tried=[pool.servers[4]]) == {"g"}


@every_strategy
def test_weights_of_nought_get_nothing(name: str):
    pool = make_pool({"weight": 50}, {}, {"backup": True})
    pool.servers[0].set_weight(0)
    assert picked(name, pool) == {"b"}
    pool.servers[1].set_weight(0)
    assert picked(name, pool) == {"c"}
    pool.servers[2].set_weight(0)
    assert picked(name, pool) == {"-"}
    pool.servers[0].set_weight(1)
    assert picked(name, pool) == {"a"}


@every_strategy
def test_changes_count_at_once(name: str):
    """The same strategy, while servers join and leave: its state is never out of date."""
    pool, strategy, rng = make_pool({}, {}, {}, {}), STRATEGIES[name](), Random(6)
    for turn in range(300):
        server = rng.choice(pool.servers)
        if turn % 3:
            server.set_up(rng.random() < 0.5, "")
        else:
            server.set_weight(rng.randrange(3))
        able = {s for s in pool.servers if s.is_up and s.weight}
        found = strategy.pick(pool, FakeRequest(f"10.{turn % 250}.0.1"), turn / 10, rng)
        assert found in able if able else found is None


@every_strategy
def test_among_a_thousand(name: str):
    pool = make_pool(*[{"name": f"s{i}", "weight": 1 + i % 3} for i in range(1000)])
    for server in pool.servers[::2]:
        server.set_up(False, "")
    names = picked(name, pool, count=300)
    assert all(int(found[1:]) % 2 for found in names)
    assert len(names) > 100


class Traffic:
    """100 requests a second from many clients; `counts` are of those since it was cleared."""

    def __init__(self, pool: Pool, strategy: Strategy, *, in_flight: int = 5) -> None:
        self.pool = pool
        self.now = 0.0
        self.counts: Counter[str] = Counter()
        self._strategy = strategy
        self._rng = Random(8)
        self._in_flight = in_flight
        self._leases: list[Lease] = []

    def go_on(self, requests: int) -> None:
        """One of them is answered, in 50 ms, whenever more than `in_flight` are on their way."""
        rng = self._rng
        for _ in range(requests):
            self.now += 0.01
            address = f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}"
            request = FakeRequest(address)
            server = self._strategy.pick(self.pool, request, self.now, rng)
            assert server is not None
            self.counts[server.name] += 1
            self._leases.append(self.pool.lease(server, self.now, request))
            if len(self._leases) > self._in_flight:
                self._answer(self._leases.pop(rng.randrange(len(self._leases))))

    def _answer(self, lease: Lease) -> None:
        server = lease.server
        if server.fails:
            server.succeeded()
        if isinstance(self._strategy, Learner):
            self._strategy.answered(server, FakeAnswer(), 0.05, self.now)  # type: ignore[arg-type]
        lease.release(100)


@every_strategy
@pytest.mark.parametrize("max_fails", [0, 1, 3])
@pytest.mark.parametrize("size", [2, 3, 5, 20])
def test_one_failure_is_forgotten(name: str, size: int, max_fails: int):
    """After `fail_timeout` (10 s) it is among the next 200 picks, as nothing is known against it;
    and from then on it has its share again, of which half is asked for here."""
    pool = many(size, max_fails=max_fails, fail_timeout=10)
    traffic = Traffic(pool, STRATEGIES[name]())
    one = pool.servers[0]
    traffic.go_on(500)
    assert traffic.counts[one.name] > 0
    one.failed(traffic.now)
    traffic.go_on(1000)
    traffic.counts.clear()
    traffic.go_on(200)
    assert traffic.counts[one.name] > 0
    traffic.counts.clear()
    traffic.go_on(2000)
    assert one.fails == 0
    assert traffic.counts[one.name] > 0.5 * 2000 / size


@pytest.mark.parametrize("in_flight", [0, 100])
@pytest.mark.parametrize("name", ["random", "p2c", "peak_ewma", "prequal", "least_load"])
def test_shares_follow_weights_where_all_take_the_same_time(name: str, in_flight: int):
    """One at a time, and where all are busy, within five standard deviations of chance: 10 % of the
    lightest one's share. (With a few in flight a light one that is idle is the least loaded.)"""
    pool = make_pool(*[{"weight": weight} for weight in (1, 2, 3, 4)])
    traffic = Traffic(pool, STRATEGIES[name](), in_flight=in_flight)
    traffic.go_on(1000)
    traffic.counts.clear()
    traffic.go_on(20_000)
    assert_shares(traffic.counts, {server.name: server.weight for server in pool.servers})


@every_strategy
def test_a_strategy_that_learns_says_so(name: str):
    strategy = STRATEGIES[name]()
    assert isinstance(strategy, Learner) == (name in {
        "peak_ewma", "prequal", "least_load", "selective_push",
    })  # fmt: skip


def test_the_options_arrive():
    pool = make_pool({}, {}, {})
    for name in ("consistent_hash", "maglev"):
        strategy = STRATEGIES[name](HashOptions(hash_on="header:X-Key", load_factor=2.0))
        request = FakeRequest(request_head=b"GET / HTTP/1.1\r\nX-Key: k\r\n\r\n")
        by_header = strategy.pick(pool, request, 0.0, Random(0))
        by_client = STRATEGIES[name]().pick(pool, FakeRequest("k"), 0.0, Random(0))
        assert by_header is by_client
        assert strategy._factor == 2.0
    for name in ("peak_ewma", "prequal", "least_load"):
        strategy_type = STRATEGIES[name]
        assert strategy_type(strategy_type.options(tau=3.0))._tau == 3.0


def test_the_configuration_knows_them_all():
    for name in STRATEGIES:
        backend = Backend.model_validate(
            {"balance": name, "servers": [{"name": "a", "address": "10.0.0.1:80"}]}
        )
        assert type(backend.strategy) is STRATEGIES[name].options
