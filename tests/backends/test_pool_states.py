"""In every order of events: counts are right, limits hold, and no waiter is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hermes_lb.errors import NoServer
from tests.support.examples import examples
from tests.support.pools import FakeWaiter, make_pool

WINDOW = 5.0

# The server that a request may take if its own is out: any, the next in its own order, or none.
KINDS = st.sampled_from(["any", "hashed", "strict"])
# What happens in the middle of a refusal: its client asks again, a request ends, a server fails.
MEANWHILE = st.sampled_from(["nothing", "asks", "ends", "fails"])

# Small limits, so that servers are often full and often out.
SERVERS = st.lists(
    st.fixed_dictionaries(
        {
            "max_connections": st.sampled_from([1, 1, 1, 2, 0]),
            "max_fails": st.sampled_from([1, 1, 2, 0]),
            "backup": st.sampled_from([False, False, True]),
            "fail_timeout": st.just(WINDOW),
        }
    ),
    min_size=1,
    max_size=3,
)
ANY = st.integers(0, 1000)


class Waiter(FakeWaiter):
    def __init__(
        self, machine: PoolMachine, kind: str, choice: int, meanwhile: str, **more: Any
    ) -> None:
        super().__init__(**more)
        self.machine = machine
        self.kind = kind
        self.choice = choice
        self.meanwhile = meanwhile

    def server_lost(self, now):
        assert self in self.machine.pool.waiting
        assert self.pinned_to is not None
        assert not self.pinned_to.may_serve(now)
        if self.kind == "strict":
            if self.pinned_to.is_able:
                return self.pinned_to
            raise NoServer("for a test")
        if self.kind == "any":
            return None
        return self.machine.owner(self.choice, self.tried, now) or self.pinned_to

    def fail(self, error):
        assert self.kind == "strict"
        assert not self.refused
        self.refused += 1
        self.machine.pool.leave(self)
        self.machine.waiters.remove(self)
        self.machine.happens(self.meanwhile, self.choice)

    def lease_granted(self, lease):
        super().lease_granted(lease)
        assert not self.leases[1:], "granted twice"
        assert self not in self.machine.pool.waiting
        assert lease.server not in self.tried or self.pinned_to is lease.server
        assert self.pinned_to in (None, lease.server)
        self.machine.began(lease, self)
        self.machine.waiters.remove(self)


class PoolMachine(RuleBasedStateMachine):
    """Plays the data path: asks for candidates, leases, waits, releases; and the checks."""

    @initialize(servers=SERVERS)
    def start(self, servers: list[dict[str, Any]]):
        servers[0]["backup"] = False
        self.pool = make_pool(*servers)
        self.now = self.told = self.ticked = 0.0
        self.leases: list[Any] = []
        self.waiters: list[Waiter] = []
        self.probed: dict[Any, float] = {}
        self.judge_failures = self.pool._judge_failures
        self.pool._judge_failures = self.panic_changed  # type: ignore[method-assign]

    def panic_changed(self) -> bool:
        """After a panic each failing server gets a probe, even if it had one at the same time."""
        has_changed = self.judge_failures()
        if has_changed and not self.pool.in_panic:
            self.probed.clear()
        return has_changed

    def began(self, lease: Any, request: FakeWaiter) -> None:
        """A lease was given out: was that right?"""
        server = lease.server
        self.leases.append(lease)
        assert server.is_up
        assert not server.max_connections or server.in_flight <= server.max_connections
        is_to_spare = server.is_failing and not server.in_panic and request.pinned_to is None
        if is_to_spare and self.had_choice(server, request, self.told):
            assert server.window_start == self.told, "given in the middle of its window"
            assert self.probed.get(server) != server.window_start, "a second probe"
            self.probed[server] = server.window_start

    def had_choice(self, server: Any, request: FakeWaiter, now: float) -> bool:
        """Another server may serve the request, so one that failed gets it as a probe only."""
        return any(
            s is not server and s not in request.tried and s.may_serve(now)
            for s in self.pool.servers
        )

    def server(self, index: int) -> Any:
        return self.pool.servers[index % len(self.pool.servers)]

    def owner(self, key: int, tried: Any, now: float) -> Any:
        """The first in the order of a hashed key that may serve it, or that only failed."""
        order = [self.server(key + place) for place in range(len(self.pool.servers))]
        order = [server for server in order if server not in tried]
        fit = [s for s in order if s.may_serve(now)] or [s for s in order if s.is_able]
        return fit[0] if fit else None

    def happens(self, what: str, which: int) -> None:
        if what == "asks":
            self.arrives(which, None, which)
        elif what == "ends" and self.leases:
            self.release(which)
        elif what == "fails":
            self.fail(which)

    @rule(count=st.integers(1, 4), choice=ANY)
    def several_arrive(self, count: int, choice: int):
        for _ in range(count):
            self.arrives(None, None, choice)

    @rule(count=st.integers(2, 4), which=ANY, kind=KINDS, meanwhile=MEANWHILE)
    def several_arrive_for_one(self, count: int, which: int, kind: str, meanwhile: str):
        for _ in range(count):
            self.arrives(which, None, which, kind, meanwhile)

    @rule(pin=st.none() | ANY, tried=st.none() | ANY, choice=ANY, kind=KINDS, meanwhile=MEANWHILE)
    def one_arrives(
        self, pin: int | None, tried: int | None, choice: int, kind: str, meanwhile: str
    ):
        self.arrives(pin, tried, choice, kind, meanwhile)

    def arrives(
        self,
        pin: int | None,
        tried: int | None,
        choice: int,
        kind: str = "any",
        meanwhile: str = "nothing",
    ):
        pool = self.pool
        failed_on = [] if tried is None else [self.server(tried)]
        pinned = None if pin is None else self.server(pin)
        if kind == "hashed":
            pinned = self.owner(choice, failed_on, self.now)
        if pinned in failed_on:
            return  # who has given up on its server is not bound to it any more
        if pinned is not None and (kind == "hashed" or pinned.may_serve(self.now)):
            usable = [] if pinned.is_full else [pinned]
        elif pinned is not None and kind == "strict":
            return
        else:
            pinned = None
            usable = pool.candidates(failed_on, self.now)
            if not usable and not pool.can_wait(failed_on):
                return
        if usable:
            self.told = self.now
            lease = pool.lease(usable[choice % len(usable)], self.now)
            self.began(lease, FakeWaiter(pinned, failed_on))
        else:
            waiter = Waiter(self, kind, choice, meanwhile, pinned_to=pinned, tried=failed_on)
            self.waiters.append(waiter)
            pool.wait(waiter)

    @precondition(lambda self: self.leases)
    @rule(which=ANY)
    def release(self, which: int):
        self.leases.pop(which % len(self.leases)).release()

    @precondition(lambda self: self.waiters)
    @rule(which=ANY)
    def leave(self, which: int):
        self.pool.leave(self.waiters.pop(which % len(self.waiters)))

    @precondition(lambda self: self.leases)
    @rule(which=ANY, succeeds=st.booleans())
    def release_with_outcome(self, which: int, succeeds: bool):
        lease = self.leases.pop(which % len(self.leases))
        if succeeds:
            lease.server.succeeded()
        else:
            lease.server.failed(self.now)
        lease.release()

    @rule(which=ANY)
    def fail(self, which: int):
        self.server(which).failed(self.now)

    @rule(which=ANY, up=st.booleans())
    def check(self, which: int, up: bool):
        self.server(which).set_up(up, "")

    @rule(seconds=st.sampled_from([0.5, WINDOW, WINDOW + 1]), ticks=st.booleans())
    def time_passes(self, seconds: float, ticks: bool):
        self.now += seconds
        if ticks:
            self.tick()

    def tick(self):
        self.told = self.ticked = self.now
        self.pool.tick(self.now)

    @invariant()
    def counts_are_right(self):
        for server in self.pool.servers:
            assert server.in_flight == sum(lease.server is server for lease in self.leases)
            assert server.queued == sum(waiter.pinned_to is server for waiter in self.waiters)
            assert 0 <= server.effective_weight <= server.weight
        assert list(self.pool.waiting) == self.waiters

    @invariant()
    def nobody_waits_while_a_server_has_room(self):
        """What time alone has made of a failed server is noticed by the next tick."""
        for server in self.pool.servers:
            if server.is_full:
                continue
            for waiter in self.waiters:
                if server.may_serve(self.ticked) or (server.is_able and waiter.kind == "hashed"):
                    assert waiter.pinned_to is not server
                    assert waiter.pinned_to is not None or server in waiter.tried
                elif server.is_able and waiter.pinned_to is None and server not in waiter.tried:
                    # By the last time that the pool received, or by that of its arrival.
                    times = self.told, self.now
                    assert any(self.had_choice(server, waiter, time) for time in times)

    @invariant()
    def nobody_is_bound_to_a_server_that_is_out(self):
        """Except hashed keys while no server may serve them: they have to stay somewhere."""
        for waiter in self.waiters:
            pinned = waiter.pinned_to
            if pinned is not None and not pinned.is_up:
                assert waiter.kind == "hashed"
                assert self.owner(waiter.choice, waiter.tried, self.ticked) is None

    @invariant()
    def hashed_keys_never_wait_for_just_anybody(self):
        assert all(w.pinned_to is not None for w in self.waiters if w.kind == "hashed")

    @invariant()
    def candidates_are_fit(self):
        able = [server for server in self.pool.servers if server.is_able]
        found = self.pool.candidates((), self.now)
        usable = [server for server in able if server.may_serve(self.now)] or able
        assert all(server in usable and not server.is_full for server in found)
        assert bool(found) == any(not server.is_full for server in usable)
        assert self.pool.can_wait(()) == bool(able)

    def teardown(self):
        """All goes well again: everyone is served in the end."""
        if not hasattr(self, "pool"):
            return
        for server in self.pool.servers:
            server.set_up(True, "")
        self.now += WINDOW + 1
        for _ in range(len(self.waiters) + len(self.leases)):
            self.tick()
            while self.leases:
                lease = self.leases.pop()
                lease.server.succeeded()
                lease.release()
        # A request that has failed on every server is refused by `can_wait`, not queued.
        assert not self.waiters


TestPoolMachine = pytest.mark.pure_only("a method is patched")(PoolMachine.TestCase)
TestPoolMachine.settings = examples(50, stateful_step_count=40)
