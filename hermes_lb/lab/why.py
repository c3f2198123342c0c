"""Why a server was picked: the figures that the strategy compared, for one request.

The strategy explains itself (`Strategy.explain`) with a copy of the random numbers, so the run is
the same with and without an explanation.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from hermes_lb.balancing.explanation import View, names

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.backends import Server
    from hermes_lb.balancing import Strategy
    from hermes_lb.balancing.explanation import Explanation
    from hermes_lb.lab.engine import Run
    from hermes_lb.lab.job import Job

_MOST_ROWS = 12


class Why:
    """Watches a run for the request of this number, from 0; `lines` explain its first pick.

    Each server that the strategy compared has a line: the best first, or in the order in which
    they were drawn or asked. The picked one always has one; if there are few servers, all have.
    """

    def __init__(self, run: Run, number: int) -> None:
        self.lines: list[str] = []
        self._run = run
        self._number = number
        self._view: View | None = None
        self._explanation: Callable[[Server], Explanation]
        run.before_pick = self._before
        run.after_pick = self._after

    def _before(self, job: Job, now: float) -> None:
        if job.number != self._number or self.lines:
            return
        pool, rng = self._run.pool, Random()
        rng.setstate(self._run.rng.getstate())
        self._view = View(pool, job, now, pool.candidates(job.tried, now), rng)
        self._explanation = self._run.strategy.explain(self._view)

    def _after(self, job: Job, server: Server | None) -> None:
        view = self._view
        if view is None:
            return
        self._view = None
        pool, strategy = view.pool, self._run.strategy
        self.lines = [
            strategy.rule,
            f"at {view.now:.3f} s, request {job.number + 1} from {job.client_address}: "
            f"{len(view.candidates)} of {len(pool.servers)} servers can take it{_but(view)}, "
            f"{pool.in_flight} in flight",
        ]
        if server is None:
            waits = pool.can_wait(job.tried)
            self.lines.append(f"picked: no server; it {'waits' if waits else 'fails'}")
            return
        explanation = self._explanation(server)
        if explanation.fact:
            self.lines.append(explanation.fact)
        self.lines.append(f"{server.name} {explanation.because}:")
        self.lines += _table(explanation.rows, server)
        self.lines += _not_compared(explanation.rows, view, strategy)
        self.lines.append(f"picked: {server.name}")


def _table(rows: list[tuple[Server, str]], picked: Server) -> list[str]:
    shown, rest = rows[:_MOST_ROWS], rows[_MOST_ROWS:]
    lines = [_row(server, text) for server, text in shown]
    if all(server is not picked for server, _ in shown):
        last = [row for row in rest if row[0] is picked] or [(picked, "")]
        rest = [row for row in rest if row[0] is not picked]
        lines += [f"... and {len(rest)} more"] if rest else []
        return lines + [_row(*row) for row in last]
    return lines + ([f"... and {len(rest)} more"] if rest else [])


def _not_compared(rows: list[tuple[Server, str]], view: View, strategy: Strategy) -> list[str]:
    """The other candidates, if there are few."""
    if len(view.candidates) > _MOST_ROWS:
        return []
    compared = {server for server, _ in rows}
    others = [server for server in view.candidates if server not in compared]
    lines = [_row(server, strategy.figure(server, view.now)) for server in others]
    return ["not compared:", *lines] if lines else []


def _row(server: Server, text: str) -> str:
    line = f"  {server.name:<6} {server.in_flight} in flight, weight {server.weight:g}"
    if server.queued:
        line += f", {server.queued} queued"
    if server.fails:
        line += f", {server.fails} failures"
    return line + text


def _but(view: View) -> str:
    others = [server for server in view.pool.servers if server not in view.candidates]
    return f" (not {names(others)})" if others else ""
