"""A strategy of one's own, whose mistakes cost its requests nothing but the strategy.

If it raises, or returns anything but a candidate, the request goes by round robin, a counter counts
(`strategy_failures`), and one line a minute says what was wrong. What it does when a lease begins
or ends, and for the queue, is guarded too, so that no lease is lost. A strategy that blocks stops
its process: there is no way to interrupt it, and the line says how long it took.
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.backends.server import Server
from hermes_lb.balancing.base import Learner, Strategy, Tracker
from hermes_lb.balancing.loops import next_by_wrr
from hermes_lb.balancing.plugin_check import in_words

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Waiter
    from hermes_lb.backends.pool import Ticket
    from hermes_lb.balancing.explanation import Explanation, View
    from hermes_lb.balancing.request import Request
    from hermes_lb.http import ResponseHead

logger = logging.getLogger("hermes_lb.balancing")

_BETWEEN_LINES: Final = 60.0  # seconds
_SLOW: Final = 0.05  # seconds; every stream of the process waits for as long


class Guarded(Learner, Tracker):
    """Around `inner`, which `balance = name` asks for."""

    def __init__(self, inner: Strategy, name: str) -> None:
        self.inner = inner
        self._name = name
        self._learner = inner if isinstance(inner, Learner) else None
        self._tracker = inner if isinstance(inner, Tracker) else None
        if self._tracker is not None:
            self._tracker.stand_in = self
        self._pool: Pool | None = None
        self._servers: frozenset[Server] = frozenset()
        self._version = -1
        self._now = 0.0
        self._next_line = float("-inf")
        self._unsaid = 0  # failures since the last line
        self.rule = inner.rule  # type: ignore[misc]

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        self._now = now
        if pool.version != self._version:
            self._pool, self._version = pool, pool.version
            self._servers = frozenset(pool.servers)
        began = perf_counter()
        try:
            picked: Any = self.inner.pick(pool, request, now, rng)
            problem = self._problem(picked, pool, request, now)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            picked, problem = None, in_words(error, "pick")
        took = perf_counter() - began
        if took > _SLOW:
            self._say(f"a pick took {took * 1000:.0f} ms, in which this process did nothing else")
        if not problem:
            server: Server | None = picked
            return server
        self._failed(f"{problem}; the request goes by round robin")
        candidates = pool.candidates(request.tried, now)
        return next_by_wrr(candidates) if candidates else None

    def _problem(self, picked: Any, pool: Pool, request: Request, now: float) -> str:
        """The fault of this pick; empty: none."""
        tried = request.tried
        if picked is None:
            waits = self._tracker is not None and not any(
                self.has_room(server, now) for server in pool.candidates(tried, now)
            )
            if waits or not pool.candidates(tried, now):
                return ""
            return "pick returned None although a server can take the request"
        if not isinstance(picked, Server):
            return f"pick returned {type(picked).__name__}, which is no Server"
        if picked not in self._servers:
            return f"pick returned {picked.name}, which is no server of this backend"
        is_common = picked.can_take(now) and picked.weight and not picked.config.backup
        if (is_common and picked not in tried) or picked in pool.candidates(tried, now):
            return ""
        return f"pick returned {picked.name}, which can't take the request ({picked.state})"

    def _failed(self, problem: str) -> None:
        if self._pool is not None:
            self._pool.unserved.strategy_failures += 1
        self._say(problem)

    def _say(self, problem: str) -> None:
        """One line a minute."""
        self._unsaid += 1
        if self._now < self._next_line:
            return
        before = self._unsaid - 1
        more = f" ({before} more since the last line)" if before else ""
        backend = self._pool.name if self._pool is not None else "?"
        logger.error("backend %s: strategy %s: %s%s", backend, self._name, problem, more)
        self._next_line = self._now + _BETWEEN_LINES
        self._unsaid = 0

    def _call(self, doing: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """What it returns; None if it raises."""
        try:
            return call(*arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._failed(in_words(error, doing))
            return None

    # Of the other methods of a strategy each does what it does without one.

    def answered(self, server: Server, head: ResponseHead, seconds: float, now: float) -> None:
        if self._learner is not None:
            self._now = now
            self._call("answered", self._learner.answered, server, head, seconds, now)

    def load_reported(self, server: Server, load: float, now: float) -> None:
        self._call("load_reported", self.inner.load_reported, server, load, now)

    def forget(self, server: Server) -> None:
        self._call("forget", self.inner.forget, server)

    def figure(self, server: Server, now: float) -> str:
        return str(self._call("figure", self.inner.figure, server, now) or "")

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        explained = self._call("explain", self.inner.explain, view)
        general = super().explain(view)
        if explained is None:
            return general
        return lambda picked: self._call("explain", explained, picked) or general(picked)

    def detach(self, pool: Pool) -> None:
        self._call("detach", self.inner.detach, pool)
        super().detach(pool)
        pool.touched = None

    def started(self, server: Server, request: Request, now: float) -> Ticket | None:
        if self._tracker is None:
            return None
        self._now = now
        ticket = self._call("started", self._tracker.started, server, request, now)
        return None if ticket is None else _GuardedTicket(self, ticket)

    def ended(self, ticket: Ticket, output: int) -> None:
        self._call("ended", lambda: ticket.ended(output))

    def has_room(self, server: Server, now: float) -> bool:
        if self._tracker is None:
            return True
        answer = self._call("has_room", self._tracker.has_room, server, now)
        return answer is None or bool(answer)

    def joined(self, waiter: Waiter) -> None:
        if self._tracker is not None:
            self._call("joined", self._tracker.joined, waiter)

    def left(self, waiter: Waiter) -> None:
        if self._tracker is not None:
            self._call("left", self._tracker.left, waiter)

    def next_waiter(self, first: Waiter, accepts: Callable[[Waiter], bool]) -> Waiter:
        if self._tracker is None:
            return first
        found: Waiter | None = self._call("next_waiter", self._tracker.next_waiter, first, accepts)
        if found is first:
            return first
        waiting = self._pool.waiting if self._pool is not None else ()
        if found is not None and any(one is found for one in waiting) and accepts(found):
            return found
        self._failed("next_waiter returned what can't be served")
        return first


class _GuardedTicket:
    """The ticket of one lease."""

    __slots__ = ("_guard", "_ticket")

    def __init__(self, guard: Guarded, ticket: Ticket) -> None:
        self._guard = guard
        self._ticket = ticket

    def ended(self, output: int) -> None:
        self._guard.ended(self._ticket, output)
