"""Operators, checks, outliers, failures and requests in any order, beside a plain model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hermes_lb.backends.server import ADMINS
from tests.support.examples import examples
from tests.support.pools import FakeWaiter, make_pool

WINDOW = 5.0
SERVERS = st.lists(
    st.fixed_dictionaries(
        {
            "weight": st.integers(1, 5),
            "max_connections": st.sampled_from([0, 1, 2]),
            "max_fails": st.sampled_from([0, 1]),
            "fail_timeout": st.just(WINDOW),
            "slow_start": st.sampled_from([0.0, 7.0]),
            "backup": st.sampled_from([False, False, True]),
            "down": st.sampled_from([False, False, True]),
        }
    ),
    min_size=1,
    max_size=4,
)
ANY = st.integers(0, 1000)


@dataclass
class Model:
    """The last statement of each kind about a server."""

    weight: int
    admin: str
    is_healthy: bool = True
    is_degraded: bool = False
    is_announcing: bool = False
    is_ejected: bool = False

    @property
    def state(self) -> str:
        holds = {
            "maint": self.admin == "maint",
            "down": not self.is_healthy,
            "ejected": self.is_ejected,
            "drain": self.admin == "drain" or self.is_announcing,
            "degraded": self.is_degraded,
        }
        return next((state for state, is_so in holds.items() if is_so), "up")

    @property
    def is_out(self) -> bool:
        return self.state in ("maint", "down", "ejected")

    def settle(self) -> None:
        """A server that is out keeps no other state."""
        if self.admin == "maint" or not self.is_healthy:
            self.is_degraded = self.is_ejected = False


class StateMachine(RuleBasedStateMachine):
    @initialize(servers=SERVERS)
    def start(self, servers: list[dict[str, Any]]):
        servers[0]["backup"] = False
        self.pool = make_pool(*servers)
        self.mirror = make_pool(*servers)  # what another process makes of the snapshots
        self.models = {
            s: Model(s.config.weight, "maint" if s.config.down else "ready")
            for s in self.pool.servers
        }
        self.now = 0.0
        self.leases: list[Any] = []
        self.waiters: list[FakeWaiter] = []
        self.pool.on_change = self.tell

    def tell(self, server: Any) -> None:
        place = self.pool.servers.index(server)
        self.mirror.servers[place].restore(json.loads(json.dumps(server.snapshot())))

    def server(self, index: int) -> Any:
        return self.pool.servers[index % len(self.pool.servers)]

    # Statements about servers.

    @rule(which=ANY, admin=st.sampled_from(ADMINS))
    def the_operator_sets_a_state(self, which: int, admin: Any):
        server = self.server(which)
        model = self.models[server]
        if admin == "maint" != model.admin:
            model.is_announcing = False
        elif admin != "maint" == model.admin:
            model.is_healthy = not server.starts_down
        model.admin = admin
        model.settle()
        server.set_admin(admin)

    @rule(which=ANY, weight=st.none() | st.integers(0, 3))
    def the_operator_sets_a_weight(self, which: int, weight: int | None):
        server = self.server(which)
        server.set_weight(weight)
        self.models[server].weight = server.config.weight if weight is None else weight

    @rule(which=ANY, said=st.sampled_from(["up", "down", "busy", "drain", "not yet"]))
    def a_check_ends(self, which: int, said: str):
        server = self.server(which)
        model = self.models[server]
        if said == "not yet":
            server.await_first_check()
            model.is_healthy = False
        elif model.admin == "maint":
            self.check(server, said)
        else:
            self.check(server, said)
            if said == "busy":
                model.is_degraded |= model.is_healthy
            else:
                model.is_degraded = False
                model.is_announcing = said == "drain"
            if said in ("up", "down"):
                model.is_healthy = said == "up"
        model.settle()

    def check(self, server: Any, said: str) -> None:
        if said == "busy":
            server.set_degraded(said)
        elif said == "drain":
            server.announce_drain(said)
        else:
            server.set_up(said == "up", said)

    @rule(which=ANY)
    def an_outlier_is_ejected_or_comes_back(self, which: int):
        server = self.server(which)
        model = self.models[server]
        if model.is_ejected:
            server.readmit()
        elif server.is_up:
            server.eject(self.now + 1000.0, "for a test")
        model.is_ejected = server.is_up and not model.is_ejected

    @rule(which=ANY, is_good=st.booleans())
    def a_request_ends(self, which: int, is_good: bool):
        server = self.server(which)
        other = self.mirror.servers[self.pool.servers.index(server)]
        if is_good:
            server.succeeded()
            if not server.fails:
                other.recovered()
        else:
            server.failed(self.now)
            other.failed(self.now)

    @rule(seconds=st.sampled_from([0.5, WINDOW, 11.0]))
    def time_passes(self, seconds: float):
        self.now += seconds
        self.pool.tick(self.now)

    # Requests.

    @rule(pin=st.none() | ANY)
    def one_arrives(self, pin: int | None):
        self.pool.tick(self.now)
        pinned = None if pin is None else self.server(pin)
        if pinned is None or not pinned.may_serve(self.now):
            pinned = None
            room = self.pool.candidates((), self.now)
            if not room and not self.pool.can_wait(()):
                return
        else:
            room = [] if pinned.is_full else [pinned]
        if room:
            self.leases.append(self.pool.lease(room[0], self.now))
        else:
            waiter = FakeWaiter(pinned_to=pinned)
            self.waiters.append(waiter)
            self.pool.wait(waiter)

    @precondition(lambda self: self.leases)
    @rule(which=ANY)
    def one_is_done(self, which: int):
        self.pool.tick(self.now)
        self.leases.pop(which % len(self.leases)).release()

    # What holds.

    @invariant()
    def the_state_is_the_worst_that_holds(self):
        for server, model in self.models.items():
            is_failing = server.is_failing and not model.is_out
            assert server.state == ("failing" if is_failing else model.state)
            assert server.is_up == (model.state not in ("down", "maint"))
            assert server.may_serve(self.now) == (
                not model.is_out and not server.has_failed(self.now)
            )

    @invariant()
    def only_those_up_get_new_requests_or_else_the_busy_ones_or_else_those_failing(self):
        def able(state: str) -> set[Any]:
            return {
                server
                for server, model in self.models.items()
                if (model.state, model.weight > 0) == (state, True)
                and not server.has_failed(self.now)
            }

        found = set(self.pool.candidates((), self.now))
        up, busy = able("up"), able("degraded")
        failed = {
            server
            for server, model in self.models.items()
            if model.state in ("up", "degraded") and model.weight and server not in up | busy
        }
        expected = {s for s in up or busy or failed if not s.is_full}
        assert found <= expected
        assert bool(found) == bool(expected)
        assert self.pool.can_wait(()) == bool(up or busy or failed)

    @invariant()
    def the_weight_is_the_operators_or_the_configured_one(self):
        for server, model in self.models.items():
            assert server.full_weight == model.weight
            assert server.weight == model.weight * server.warmth
            assert 0 <= server.effective_weight <= server.weight

    @invariant()
    def nobody_waits_in_vain(self):
        """Pinned requests wait for an available server; and each that can be served is."""
        self.pool.tick(self.now)
        for waiter in [w for w in self.waiters if w.leases]:
            self.waiters.remove(waiter)
            lease = waiter.leases[0]
            assert not self.models[lease.server].is_out
            assert waiter.pinned_to in (None, lease.server)
            self.leases.append(lease)
        assert list(self.pool.waiting) == self.waiters
        for server in self.pool.servers:
            assert server.queued == sum(w.pinned_to is server for w in self.waiters)
            assert server.load == server.queued + sum(x.server is server for x in self.leases)
        for waiter in self.waiters:
            pinned = waiter.pinned_to
            if pinned is not None:
                assert pinned.may_serve(self.now)
                assert pinned.is_full
            else:
                assert not self.pool.candidates((), self.now)

    @invariant()
    def another_process_sees_the_same(self):
        for server, other in zip(self.pool.servers, self.mirror.servers, strict=True):
            assert other.state == server.state
            assert other.takes_new == server.takes_new
            assert other.full_weight == server.full_weight

    def teardown(self):
        """When all servers are up again, every request is served."""
        if not hasattr(self, "pool"):
            return
        for server in self.pool.servers:
            server.set_admin("ready")
            server.set_weight(None)
            server.set_up(True, "")
            server.readmit()
            server.succeeded()
        self.now += WINDOW + 1
        for _ in range(len(self.waiters) + len(self.leases) + 1):
            self.pool.tick(self.now)
            for waiter in [w for w in self.waiters if w.leases]:
                self.waiters.remove(waiter)
                self.leases.append(waiter.leases[0])
            while self.leases:
                lease = self.leases.pop()
                lease.server.succeeded()  # of those that had failed it is the probe
                lease.release()
        assert not self.waiters
        assert all(server.load == 0 for server in self.pool.servers)


TestStateMachine = StateMachine.TestCase
TestStateMachine.settings = examples(80, stateful_step_count=40)
