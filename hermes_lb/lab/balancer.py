"""A balancer on the virtual clock: a real pool, a real strategy, and its view of the servers.

Several balancers may use the same machines. Each has servers of its own for them, whose requests in
flight are those that this balancer sent, unless the balancers exchange theirs (`sharing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hermes_lb.balancing import Learner
from hermes_lb.lab.job import Head

if TYPE_CHECKING:
    from collections import deque
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing import Strategy
    from hermes_lb.http import ResponseHead
    from hermes_lb.lab.engine import Run
    from hermes_lb.lab.job import Job


class Balancer:
    """Sends requests to machines as `proxy.dispatch.Backend.choose` does."""

    __slots__ = ("learner", "number", "pool", "queue_timeout", "rng", "run", "strategy", "_ticks")

    def __init__(
        self,
        number: int,
        pool: Pool,
        strategy: Strategy,
        rng: Random,
        queue_timeout: float,
    ) -> None:
        self.number = number
        self.pool = pool
        self.strategy = strategy
        self.learner = strategy if isinstance(strategy, Learner) else None
        self.rng = rng
        self.queue_timeout = queue_timeout
        self.run: Run
        self._ticks = False

    def dispatch(self, job: Job, now: float) -> None:
        """Affinity, then the strategy, then the queue."""
        pool, pinned, run = self.pool, job.pinned_to, self.run
        server: Server | None
        if pinned is not None and pinned.may_serve(now):
            server = None if pinned.is_full else pinned
        else:
            job.pinned_to = None
            if run.before_pick is not None:
                run.before_pick(job, now)
            server = self.strategy.pick(pool, job, now, self.rng)
            if run.after_pick is not None:
                run.after_pick(job, server)
            if server is None and not pool.can_wait(job.tried):
                run.failed(job, "no server", now)
                return
        if server is not None:
            job.lease = pool.lease(server, now, job)
            run.begin(job, now)
            return
        job.queued_at = now
        pool.wait(job)
        if not self._ticks:
            self._ticks = True
            run.at(now + 1.0, self._tick)

    def _tick(self, _: None, now: float) -> None:
        """Once a second while requests wait."""
        pool = self.pool
        waiting = cast("deque[Job]", pool.waiting)
        while waiting and now - waiting[0].queued_at >= self.queue_timeout:
            job = waiting[0]
            pool.leave(job)
            self.run.failed(job, "queue timeout", now)
        pool.tick(now)
        self._ticks = bool(waiting)
        if waiting:
            self.run.at(now + 1.0, self._tick)

    def answered(self, job: Job, now: float) -> None:
        """The head of the response has come."""
        server = job.lease.server
        if server.fails:
            self.pool.answered(server)
        if self.learner is not None:
            head = cast("ResponseHead", Head(job.status or 200, job.machine.load))
            self.learner.answered(server, head, now - job.picked_at, now)
