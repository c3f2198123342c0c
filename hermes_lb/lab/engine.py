"""The virtual clock: real pools and real strategies with simulated machines.

An event is (time, number, function, request), in a heap. Time jumps from one to the next. A run is
deterministic: no clock is read, and nothing depends on object hashes.

Requests arrive at their time, or (a session's next one) some time after another one has ended, so a
slow fleet slows its users.
"""

from __future__ import annotations

from functools import partial
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Final

from hermes_lb.config import Timeouts
from hermes_lb.lab.job import Job
from hermes_lb.lab.measures import Measures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing import Strategy
    from hermes_lb.lab.balancer import Balancer
    from hermes_lb.lab.machine import Machine
    from hermes_lb.lab.workloads import Workload

    Change = tuple[float, Callable[[float], None]]

QUEUE_TIMEOUT: Final = Timeouts().queue
RETRIES: Final = 3
SAMPLES: Final = 200
_FAILS_WITHIN: Final = 0.002  # seconds to a 500 from a server that fails fast
_NOWHERE: Final = -1


class Run:
    """One workload with one strategy. `sticky`: each user has a cookie.

    A user's requests come by one of the balancers. `before_pick(job, now)` is called before a
    strategy is asked, `after_pick(job, server)` afterwards; `progress(ended)` after each of
    `SAMPLES` parts of the run.
    """

    def __init__(
        self,
        balancers: Sequence[Balancer],
        machines: Sequence[Machine],
        workload: Workload,
        *,
        sticky: bool = False,
    ) -> None:
        self.balancers = balancers
        self.workload = workload
        self.machines = machines
        self.measures = Measures(len(machines), len(workload.arrivals))
        self.before_pick: Callable[[Job, float], None] | None = None
        self.after_pick: Callable[[Job, Server | None], None] | None = None
        self.progress: Callable[[int], None] | None = None
        self._by_server: dict[Server, Machine] = {}
        for machine in machines:
            machine.run = self
            self._by_server.update(dict.fromkeys(machine.servers, machine))
        for balancer in balancers:
            balancer.run = self
        self._sticky = sticky
        self._last = [_NOWHERE] * len(workload.addresses)  # a machine's place, by user
        self._now = 0.0
        self._left = len(workload.arrivals)
        self._heap: list[tuple[float, int, Callable[..., None], Job | None]] = []
        self._events = 0

    # Of the first balancer.

    @property
    def pool(self) -> Pool:
        return self.balancers[0].pool

    @property
    def strategy(self) -> Strategy:
        return self.balancers[0].strategy

    @property
    def rng(self) -> Random:
        return self.balancers[0].rng

    def at(self, time: float, act: Callable[..., None], job: Job | None = None) -> None:
        """Call `act(job, now)` at that time; calls for the same time run in order."""
        self._events += 1
        heappush(self._heap, (time, self._events, act, job))

    def each(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act()` at this interval until the last request has ended."""

        def again(_: None, now: float) -> None:
            if self._left:
                act()
                self.at(now + seconds, again)

        self.at(seconds, again)

    def play(self, changes: Sequence[Change] = ()) -> Measures:
        """Run until the last request has ended."""
        together: dict[float, list[Callable[[float], None]]] = {}
        for time, change in changes:
            together.setdefault(time, []).append(change)
        for time, some in together.items():
            self.at(time, partial(self._change, some))
        for machine in self.machines:
            if machine.gone is not None:
                self.at(machine.gone[0], machine.die)
        horizon = self.workload.horizon
        for number in range(1, SAMPLES + 1):
            self.at(horizon * number / SAMPLES, self._sample)
        heap, arrivals, heads = self._heap, self.workload.arrivals, self.workload.heads
        count = len(heads)
        place, number = 0, _NOWHERE
        due = inf
        if count:
            number = heads[0]
            due = arrivals[number]
        while True:
            if due < inf and (not heap or due <= heap[0][0]):
                self._now = due
                self._arrive(number, due)
                place += 1
                due = inf
                if place < count:
                    number = heads[place]
                    due = arrivals[number]
            elif heap:
                self._now, _, act, event_job = heappop(heap)
                act(event_job, self._now)
            else:
                return self.measures

    def _arrive(self, number: int, now: float) -> None:
        job = Job(number, now, self.workload, self._granted)
        self.measures.arrivals[number] = now
        job.balancer = balancer = self.balancers[job.user % len(self.balancers)]
        if self._sticky and (last := self._last[job.user]) != _NOWHERE:
            job.pinned_to = self.machines[last].servers[balancer.number]
        balancer.dispatch(job, now)

    def _granted(self, job: Job) -> None:
        self.begin(job, self._now)

    # Called by balancers.

    def begin(self, job: Job, now: float) -> None:
        """The machine of the lease refuses, fails, serves or queues the request."""
        server = job.lease.server
        job.machine = machine = self._by_server[server]
        job.picked_at = now
        if machine.gone is not None and machine.gone[0] <= now < machine.gone[1]:
            self._refused(job, now)
            return
        is_alone = len(self.balancers) == 1
        self.measures.sent(machine.place, server.in_flight if is_alone else machine.load + 1)
        last = self._last[job.user]
        is_moved = last not in (_NOWHERE, machine.place)
        if last != machine.place:
            self._last[job.user] = machine.place
            if is_moved:
                self.measures.moved += 1
        if machine.failing is not None and machine.failing[0] <= now < machine.failing[1]:
            job.status = 500
            self.at(now + _FAILS_WITHIN, self._end_of_failure, job)
        else:
            machine.accept(job, now, is_moved=is_moved)

    def failed(self, job: Job, kind: str, now: float) -> None:
        """The request has ended without a good response; its session goes on."""
        self.measures.failed(job.number, kind)
        self._ended(job.number, now)

    def _refused(self, job: Job, now: float) -> None:
        server = job.lease.server
        job.balancer.pool.failed(server, now, "it refuses")
        self.measures.refused += 1
        job.lease.release()
        job.tried = (*job.tried, server)
        job.pinned_to = None
        if len(job.tried) > RETRIES:
            self.failed(job, "refused", now)
        else:
            job.balancer.dispatch(job, now)

    def _end_of_failure(self, job: Job, now: float) -> None:
        job.balancer.answered(job, now)
        self.failed(job, "500", now)
        job.lease.release()

    # Called by machines.

    def started(self, job: Job, now: float) -> None:
        self.measures.waits[job.number] = now - job.arrived

    def served(self, job: Job, now: float) -> None:
        """The last byte has left."""
        self.measures.latencies[job.number] = now - job.arrived
        self.measures.served += 1
        self._ended(job.number, now)

    def _ended(self, number: int, now: float) -> None:
        """The next calls of its session come after the pauses that follow it."""
        self._left -= 1
        followers = self.workload.followers
        if followers is not None and number in followers:
            for follower, pause in followers[number]:
                self.at(now + pause, partial(self._follow, follower))

    def _follow(self, number: int, _: None, now: float) -> None:
        self._arrive(number, now)

    def _change(self, changes: Sequence[Callable[[float], None]], _: None, now: float) -> None:
        with self.pool.many_changing():
            for change in changes:
                change(now)

    def _sample(self, _: None, now: float) -> None:
        is_alone = len(self.balancers) == 1
        every = [m.server.in_flight if is_alone else m.load for m in self.machines]
        loads = [every[m.place] for m in self.machines if m.server.is_up and m.server.weight]
        self.measures.sample(now, loads, every)
        if self.progress is not None:
            self.progress(self.measures.ended)
