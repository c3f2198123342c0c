"""The virtual clock: real pools and real strategies with simulated machines.

An event is (time, number, function, request), in a heap. Time jumps from one to the next. A run is
deterministic: no clock is read, and nothing depends on object hashes.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, cast

from hermes_lb.balancing import Learner
from hermes_lb.config import Timeouts
from hermes_lb.lab.measures import Measures
from hermes_lb.lab.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random

    from hermes_lb.backends import Lease, Pool, Server
    from hermes_lb.balancing import Strategy
    from hermes_lb.errors import NoServer
    from hermes_lb.http import ResponseHead
    from hermes_lb.lab.workloads import Workload

    Change = tuple[float, Callable[[float], None]]

QUEUE_TIMEOUT: Final = Timeouts().queue
RETRIES: Final = 3
SAMPLES: Final = 200
_FAILS_WITHIN: Final = 0.002  # seconds to a 500 from a server that fails fast
_REQUEST_HEAD: Final = b"POST /v1/responses HTTP/1.1\r\nHost: lab\r\n\r\n"


class Machine:
    """The machine of a server: `slots` requests at a time (0: any number), FIFO."""

    __slots__ = ("failing", "gone", "pace", "place", "queue", "running", "server", "slots")

    def __init__(self, server: Server, place: int, slots: int) -> None:
        self.server = server
        self.place = place
        self.slots = slots
        self.pace = Pace()
        self.running = 0
        self.queue: deque[Job] = deque()
        self.failing: tuple[float, float] | None = None  # responds with 500 at once, from, until
        self.gone: tuple[float, float] | None = None  # refuses connections, from, until

    @property
    def load(self) -> int:
        """The load that it reports: requests running or waiting in it."""
        return self.running + len(self.queue)


class Job:
    """A request, as a strategy sees it, and a waiter in the pool's queue."""

    __slots__ = (
        "arrived",
        "client_address",
        "first",
        "granted",
        "lease",
        "length",
        "machine",
        "number",
        "picked_at",
        "pinned_to",
        "queued_at",
        "status",
        "tried",
        "user",
    )
    request_head = _REQUEST_HEAD

    def __init__(self, number: int, workload: Workload, granted: Callable[[Job], None]) -> None:
        self.number = number
        self.arrived = workload.arrivals[number]
        self.first = workload.firsts[number]
        self.length = workload.lengths[number]
        self.user = workload.users[number]
        self.client_address = workload.addresses[self.user]
        self.tried: tuple[Server, ...] = ()
        self.pinned_to: Server | None = None
        self.granted = granted
        self.lease: Lease
        self.machine: Machine
        self.picked_at = self.queued_at = 0.0
        self.status = 200

    def lease_granted(self, lease: Lease) -> None:
        self.lease = lease
        self.granted(self)

    def server_lost(self, now: float) -> Server | None:
        """A cookie's user may be served by any other."""
        return None

    def fail(self, error: NoServer) -> None:
        raise error  # `server_lost` never refuses


class Head:
    """A response head, as a strategy sees it."""

    __slots__ = ("load", "status")

    def __init__(self, status: int, load: int) -> None:
        self.status = status
        self.load = load

    def fields(self) -> Iterator[tuple[bytes, bytes]]:
        yield b"X-Hermes-Load", b"%d" % self.load


class Run:
    """One workload with one strategy. `sticky`: each user has a cookie.

    `before_pick(job, now)` is called before a strategy is asked, `after_pick(job, server)`
    afterwards; `progress(ended)` after each of `SAMPLES` parts of the run.
    """

    def __init__(
        self,
        pool: Pool,
        machines: Sequence[Machine],
        strategy: Strategy,
        workload: Workload,
        rng: Random,
        *,
        sticky: bool = False,
        queue_timeout: float = QUEUE_TIMEOUT,
    ) -> None:
        self.pool = pool
        self.strategy = strategy
        self.workload = workload
        self.rng = rng
        self.machines = machines
        self.measures = Measures(len(machines), len(workload.arrivals))
        self.before_pick: Callable[[Job, float], None] | None = None
        self.after_pick: Callable[[Job, Server | None], None] | None = None
        self.progress: Callable[[int], None] | None = None
        self._by_server = {machine.server: machine for machine in machines}
        self._learner = strategy if isinstance(strategy, Learner) else None
        self._sticky = sticky
        self._queue_timeout = queue_timeout
        self._last: list[Server | None] = [None] * len(workload.addresses)
        self._now = 0.0
        self._ticks = False
        self._heap: list[tuple[float, int, Callable[..., None], Job | None]] = []
        self._events = 0

    def at(self, time: float, act: Callable[..., None], job: Job | None = None) -> None:
        """Call `act(job, now)` at that time; calls for the same time run in order."""
        self._events += 1
        heappush(self._heap, (time, self._events, act, job))

    def play(self, changes: Sequence[Change] = ()) -> Measures:
        """Run until the last request has ended."""
        together: dict[float, list[Callable[[float], None]]] = {}
        for time, change in changes:
            together.setdefault(time, []).append(change)
        for time, some in together.items():
            self.at(time, partial(self._change, some))
        for machine in self.machines:
            if machine.gone is not None:
                self.at(machine.gone[0], partial(self._die, machine))
        horizon = self.workload.horizon
        for number in range(1, SAMPLES + 1):
            self.at(horizon * number / SAMPLES, self._sample)
        heap, arrivals = self._heap, self.workload.arrivals
        number, count = 0, len(arrivals)
        while True:
            if number < count and (not heap or arrivals[number] <= heap[0][0]):
                self._now = now = arrivals[number]
                job = Job(number, self.workload, self._granted)
                number += 1
                if self._sticky:
                    job.pinned_to = self._last[job.user]
                self._dispatch(job, now)
            elif heap:
                self._now, _, act, event_job = heappop(heap)
                act(event_job, self._now)
            else:
                return self.measures

    # Balancer.

    def _dispatch(self, job: Job, now: float) -> None:
        """As `proxy.dispatch.Backend.choose`: affinity, then the strategy, then the queue."""
        pool, pinned = self.pool, job.pinned_to
        server: Server | None
        if pinned is not None and pinned.may_serve(now):
            server = None if pinned.is_full else pinned
        else:
            job.pinned_to = None
            if self.before_pick is not None:
                self.before_pick(job, now)
            server = self.strategy.pick(pool, job, now, self.rng)
            if self.after_pick is not None:
                self.after_pick(job, server)
            if server is None and not pool.can_wait(job.tried):
                self.measures.failed(job.number, "no server")
                return
        if server is not None:
            job.lease = pool.lease(server, now)
            self._begin(job, now)
            return
        job.queued_at = now
        pool.wait(job)
        if not self._ticks:
            self._ticks = True
            self.at(now + 1.0, self._tick)

    def _granted(self, job: Job) -> None:
        self._begin(job, self._now)

    def _tick(self, _: None, now: float) -> None:
        """Once a second while requests wait."""
        pool = self.pool
        waiting = cast("deque[Job]", pool.waiting)
        while waiting and now - waiting[0].queued_at >= self._queue_timeout:
            job = waiting[0]
            pool.leave(job)
            self.measures.failed(job.number, "queue timeout")
        pool.tick(now)
        self._ticks = bool(waiting)
        if waiting:
            self.at(now + 1.0, self._tick)

    def _begin(self, job: Job, now: float) -> None:
        """The machine refuses, fails, serves or queues it."""
        server = job.lease.server
        job.machine = machine = self._by_server[server]
        job.picked_at = now
        if machine.gone is not None and machine.gone[0] <= now < machine.gone[1]:
            self._refused(job, now)
            return
        self.measures.sent(machine.place, server.in_flight)
        last = self._last[job.user]
        if last is not server:
            self._last[job.user] = server
            if last is not None:
                self.measures.moved += 1
        if machine.failing is not None and machine.failing[0] <= now < machine.failing[1]:
            job.status = 500
            self.at(now + _FAILS_WITHIN, self._end_of_failure, job)
        elif machine.slots and machine.running >= machine.slots:
            machine.queue.append(job)
        else:
            self._serve(job, machine, now)

    def _refused(self, job: Job, now: float) -> None:
        server = job.lease.server
        self.pool.failed(server, now, "it refuses")
        self.measures.refused += 1
        job.lease.release()
        job.tried = (*job.tried, server)
        job.pinned_to = None
        if len(job.tried) > RETRIES:
            self.measures.failed(job.number, "refused")
        else:
            self._dispatch(job, now)

    # Machine.

    def _serve(self, job: Job, machine: Machine, now: float) -> None:
        machine.running += 1
        self.measures.waits[job.number] = now - job.arrived
        end = machine.pace.after(now, job.length)
        first = end if job.first >= job.length else machine.pace.after(now, job.first)
        gone = machine.gone
        if gone is not None and now < gone[0] < end:
            job.status = 0
            self.at(gone[0], self._end, job)
            if first > gone[0]:
                return
        else:
            self.at(end, self._end, job)
        self.measures.firsts[job.number] = first - job.arrived
        if first < end and (self._learner is not None or job.machine.server.fails):
            self.at(first, self._answer, job)

    def _answer(self, job: Job, now: float) -> None:
        """The head of the response."""
        machine = job.machine
        if machine.server.fails:
            self.pool.answered(machine.server)
        if self._learner is not None:
            head = cast("ResponseHead", Head(job.status or 200, machine.load))
            self._learner.answered(machine.server, head, now - job.picked_at, now)

    def _end(self, job: Job, now: float) -> None:
        machine = job.machine
        if job.status == 0:
            self.measures.failed(job.number, "lost")
        else:
            if job.first >= job.length:
                self._answer(job, now)
            self.measures.latencies[job.number] = now - job.arrived
            self.measures.served += 1
        machine.running -= 1
        if machine.queue and job.status:
            self._serve(machine.queue.popleft(), machine, now)
        job.lease.release()

    def _end_of_failure(self, job: Job, now: float) -> None:
        self._answer(job, now)
        self.measures.failed(job.number, "500")
        job.lease.release()

    def _die(self, machine: Machine, _: None, __: float) -> None:
        """Running requests end by themselves at this time; those that wait inside are lost."""
        while machine.queue:
            job = machine.queue.popleft()
            self.measures.failed(job.number, "lost")
            job.lease.release()

    def _change(self, changes: Sequence[Callable[[float], None]], _: None, now: float) -> None:
        with self.pool.many_changing():
            for change in changes:
                change(now)

    def _sample(self, _: None, now: float) -> None:
        self.measures.sample(now, [machine.server for machine in self.machines])
        if self.progress is not None:
            self.progress(self.measures.ended)
