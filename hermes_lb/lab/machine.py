"""The machine of a server: a number of requests at a time, and a queue, in order of arrival."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hermes_lb.lab.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.backends import Server
    from hermes_lb.lab.engine import Run
    from hermes_lb.lab.job import Job


class Machine:
    """`slots` requests at a time (0: any number), each as long as its workload says, by `pace`."""

    __slots__ = ("failing", "gone", "pace", "place", "queue", "run", "running", "servers", "slots")

    def __init__(self, servers: Sequence[Server], place: int, slots: int) -> None:
        """`servers`: this machine, as each of the balancers knows it."""
        self.servers = list(servers)
        self.place = place
        self.slots = slots
        self.pace = Pace()
        self.running = 0
        self.queue: deque[Job] = deque()
        self.failing: tuple[float, float] | None = None  # responds with 500 at once, from, until
        self.gone: tuple[float, float] | None = None  # refuses connections, from, until
        self.run: Run

    @property
    def server(self) -> Server:
        """As the first balancer knows it."""
        return self.servers[0]

    @property
    def load(self) -> int:
        """The load that it reports: requests running or waiting in it."""
        return self.running + len(self.queue)

    def accept(self, job: Job, now: float, *, is_moved: bool) -> None:
        """Begin a request or queue it. `is_moved`: its session's last one was elsewhere."""
        if self.slots and self.running >= self.slots:
            self.queue.append(job)
        else:
            self._serve(job, now)

    def die(self, _: None, now: float) -> None:
        """Running requests end by themselves at this time; those that wait inside are lost."""
        while self.queue:
            job = self.queue.popleft()
            self.run.failed(job, "lost", now)
            job.lease.release()

    def _serve(self, job: Job, now: float) -> None:
        run, gone = self.run, self.gone
        self.running += 1
        run.started(job, now)
        end = self.pace.after(now, job.length)
        first = end if job.first >= job.length else self.pace.after(now, job.first)
        if gone is not None and now < gone[0] < end:
            job.status = 0
            run.at(gone[0], self._end, job)
            if first > gone[0]:
                return
        else:
            run.at(end, self._end, job)
        run.measures.firsts[job.number] = first - job.arrived
        if first < end and (job.balancer.learner is not None or job.lease.server.fails):
            run.at(first, self._answer, job)

    def _answer(self, job: Job, now: float) -> None:
        job.balancer.answered(job, now)

    def _end(self, job: Job, now: float) -> None:
        if job.status == 0:
            self.run.failed(job, "lost", now)
        else:
            if job.first >= job.length:
                job.balancer.answered(job, now)
            self.run.served(job, now)
        self.running -= 1
        if self.queue and job.status:
            self._serve(self.queue.popleft(), now)
        job.lease.release(job.output)
