"""Random schedules of checks, failures and time: what health may never do to a backend."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from tests.support.examples import examples
from tests.support.pools import FakeWaiter

SERVERS = st.lists(
    st.fixed_dictionaries(
        {
            "weight": st.integers(1, 10),
            "max_connections": st.sampled_from([0, 0, 1, 3]),
            "max_fails": st.sampled_from([0, 0, 2]),
            "fail_timeout": st.just(5.0),
            "slow_start": st.sampled_from([0.0, 7.0]),
            "backup": st.sampled_from([False, False, True]),
        }
    ),
    min_size=1,
    max_size=7,
)
OUTLIER = st.fixed_dictionaries(
    {
        "consecutive_failures": st.sampled_from([0, 1, 3]),
        "failure_share": st.sampled_from([0.0, 0.5]),
        "min_requests": st.just(2),
        "interval": st.just(3.0),
        "ejection_time": st.sampled_from([1.0, 10.0]),
    }
)
ANY = st.integers(0, 1000)


class HealthMachine(RuleBasedStateMachine):
    """Checks and requests, in any order, on any server."""

    @initialize(servers=SERVERS, outlier=OUTLIER, rng=st.randoms())
    def start(self, servers: list[dict[str, Any]], outlier: dict[str, Any], rng: Any):
        servers[0]["backup"] = False
        listed = [
            {"name": f"s{i}", "address": f"10.0.0.{i + 1}:80", **server}
            for i, server in enumerate(servers)
        ]
        configured = Backend.model_validate({"servers": listed, "outlier": outlier})
        self.pool = Pool("test", configured, rng=rng)
        self.now = 0.0
        self.leases: list[Any] = []
        self.weights: dict[Any, tuple[float, int]] = {}

    def server(self, index: int) -> Any:
        return self.pool.servers[index % len(self.pool.servers)]

    @rule(which=ANY)
    def a_good_check(self, which: int):
        server = self.server(which)
        server.set_up(True, "good")
        assert server.state in ("up", "failing", "ejected")

    @rule(which=ANY)
    def down(self, which: int):
        server = self.server(which)
        server.set_up(False, "bad")
        self.weights.pop(server, None)
        assert server.state == "down"

    @rule(which=ANY)
    def busy(self, which: int):
        server = self.server(which)
        before = server.state
        server.set_degraded("busy")
        worse = ("failing", "down", "ejected")
        assert server.state == (before if before in worse else "degraded")

    @rule(which=ANY, count=st.integers(1, 4))
    def failures(self, which: int, count: int):
        for _ in range(count):
            self.server(which).failed(self.now)
            self.pool.outliers.failed(self.server(which), self.now)

    @rule(which=ANY, status=st.sampled_from([200, 404, 500, 503]))
    def an_answer(self, which: int, status: int):
        self.pool.outliers.answered(self.server(which), status, self.now)

    @rule(which=ANY)
    def lease(self, which: int):
        found = self.pool.candidates((), self.now)
        if found:
            self.leases.append(self.pool.lease(found[which % len(found)], self.now))

    @precondition(lambda self: self.leases)
    @rule(which=ANY)
    def release(self, which: int):
        self.leases.pop(which % len(self.leases)).release()

    @rule(which=ANY)
    def one_is_pinned(self, which: int):
        """It gets its server, or the server's next free place, unless that is out."""
        server = self.server(which)
        if not server.may_serve(self.now):
            assert server.state in ("down", "ejected") or server.has_failed(self.now)
            return
        self.pool.tick(self.now)
        waiter = FakeWaiter(pinned_to=server)
        self.pool.wait(waiter)
        mine = [lease for lease in self.leases if lease.server is server]
        for lease in mine:
            self.leases.remove(lease)
            lease.release()
        self.pool.serve_waiting(server)
        assert waiter.server == server.name
        waiter.leases[0].release()

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 11.0]))
    def time_passes(self, seconds: float):
        self.now += seconds
        self.pool.tick(self.now)
        for server in self.pool.servers:
            assert not server.is_ejected or server.ejected_until > self.now

    @invariant()
    def never_are_more_than_half_ejected(self):
        servers = self.pool.servers
        if any(server.is_ejected for server in servers):
            out = sum(not server.takes_new for server in servers)
            assert 2 * out <= len(servers)

    @invariant()
    def nobody_is_turned_away_while_a_server_may_serve(self):
        """Nor for passive failures alone, when there is none that is without."""
        able = [server for server in self.pool.servers if server.is_able]
        assert bool(able) == self.pool.can_wait(())
        able = [server for server in able if server.may_serve(self.now)] or able
        found = self.pool.candidates((), self.now)
        assert all(server in able and not server.is_full for server in found)
        healthy = [server for server in able if not server.is_degraded]
        if any(server.may_serve(self.now) for server in healthy):
            assert not any(server.is_degraded for server in found)
            assert bool(found) == any(not server.is_full for server in healthy)
        else:
            assert bool(found) == any(not server.is_full for server in able)

    @invariant()
    def weights_only_grow_until_the_next_failure(self):
        for server in self.pool.servers:
            configured = server.config
            weight, most = self.weights.get(server, (0.0, 0))
            assert weight <= server.weight <= configured.weight
            assert most <= server.max_connections <= configured.max_connections
            assert server.weight > 0
            assert bool(server.max_connections) == bool(configured.max_connections)
            assert 0 <= server.effective_weight <= server.weight
            self.weights[server] = server.weight, server.max_connections


TestHealthMachine = HealthMachine.TestCase
TestHealthMachine.settings = examples(80, stateful_step_count=40)
