"""Why a server was picked: the numbers that the strategy looked at, for one request.

It looks with the strategy's own public functions, and draws from a copy of the random numbers; the
run goes on as if nobody had looked. What a pick changes (random numbers, credits) is noted before
it; the rest is told after it, before the server is leased.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from hermes_lb.balancing import (
    AtRandom,
    IpHash,
    LeastConn,
    LeastLoad,
    PeakEwma,
    PowerOfTwo,
    RoundRobin,
)
from hermes_lb.balancing.least_load import COMPARED
from hermes_lb.balancing.lots import Lots
from hermes_lb.lab.explanations import EXPLAINED, RULES, View, figure, names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.backends import Server
    from hermes_lb.lab.engine import Job, Run

_MOST_ROWS = 12


class Why:
    """Watches a run for the request of this number, from 0; `lines` explain its first pick.

    Each server that the strategy compared has a line: the best first, or in the order in which
    they were drawn or asked. The one that was picked always has one; of few servers all have.
    """

    def __init__(self, run: Run, number: int) -> None:
        self.lines: list[str] = []
        self._run = run
        self._number = number
        self._view: View | None = None
        run.before_pick = self._before
        run.after_pick = self._after

    def _before(self, job: Job, now: float) -> None:
        if job.number == self._number and not self.lines:
            self._view = _look(self._run, job, now)

    def _after(self, job: Job, server: Server | None) -> None:
        view = self._view
        if view is None:
            return
        self._view = None
        pool = view.pool
        self.lines = [
            RULES[type(view.strategy)],
            f"at {view.now:.3f} s, request {job.number + 1} from {job.client_address}: "
            f"{len(view.candidates)} of {len(pool.servers)} servers can take it{_but(view)}, "
            f"{pool.in_flight} in flight",
        ]
        if server is None:
            waits = pool.can_wait(job.tried)
            self.lines.append(f"picked: nobody; it {'waits' if waits else 'fails'}")
            return
        told = EXPLAINED[type(view.strategy)](view, server)
        if told.fact:
            self.lines.append(told.fact)
        self.lines.append(f"{server.name} {told.because}:")
        self.lines += _table(told.rows, server)
        self.lines += _others(told.rows, view)
        self.lines.append(f"picked: {server.name}")


def _look(run: Run, job: Job, now: float) -> View:
    pool, strategy = run.pool, run.strategy
    candidates = tuple(pool.candidates(job.tried, now))
    turns: dict[Server, tuple[float, float]] = {}
    if isinstance(strategy, RoundRobin | LeastConn | IpHash):
        held = strategy.credits(candidates)
        turns = {server: (held[server], server.effective_weight) for server in candidates}
    drawn = tuple(dict.fromkeys(_drawn(run, job, now)))
    return View(pool, strategy, job, now, candidates, frozenset(candidates), drawn, turns)


def _drawn(run: Run, job: Job, now: float) -> Sequence[Server]:
    rng = Random()
    rng.setstate(run.rng.getstate())
    lots, pool, strategy = Lots(), run.pool, run.strategy
    if isinstance(strategy, AtRandom):
        one = lots.one(pool, job, now, rng)
        return [one] if one else []
    if isinstance(strategy, PowerOfTwo | PeakEwma):
        return lots.two(pool, job, now, rng) or ()
    if isinstance(strategy, LeastLoad) and len(pool.up) > COMPARED:
        return lots.some(pool, job, now, rng, COMPARED)
    return ()


def _table(rows: list[tuple[Server, str]], picked: Server) -> list[str]:
    shown, rest = rows[:_MOST_ROWS], rows[_MOST_ROWS:]
    lines = [_row(server, text) for server, text in shown]
    if all(server is not picked for server, _ in shown):
        last = [row for row in rest if row[0] is picked] or [(picked, "")]
        rest = [row for row in rest if row[0] is not picked]
        lines += [f"... and {len(rest)} more"] if rest else []
        return lines + [_row(*row) for row in last]
    return lines + ([f"... and {len(rest)} more"] if rest else [])


def _others(rows: list[tuple[Server, str]], view: View) -> list[str]:
    """The other candidates, if there are few."""
    if len(view.candidates) > _MOST_ROWS:
        return []
    compared = {server for server, _ in rows}
    others = [server for server in view.candidates if server not in compared]
    lines = [_row(server, figure(server, view)) for server in others]
    return ["not compared:", *lines] if lines else []


def _row(server: Server, text: str) -> str:
    line = f"  {server.name:<6} {server.in_flight} in flight, weight {server.weight:g}"
    if server.queued:
        line += f", {server.queued} queued"
    if server.fails:
        line += f", {server.fails} failures"
    return line + text


def _but(view: View) -> str:
    others = [server for server in view.pool.servers if server not in view.able]
    return f" (not {names(others)})" if others else ""
