"""Sessions that keep their server, until a much less loaded one takes them between two turns.

SAGA (arXiv 2605.00528) combines session affinity with work stealing, and MORI (arXiv 2606.00866)
moves agent programs while they wait for their tools. Here the next turn of a session moves
from its server to the least loaded one if that has `gap` requests less in flight, as seen by a
server of mean weight, if no other request of the session is running, and if the session has not
moved for `rest` seconds. The new server has to build the session's state (a cache, a prefix) again,
which is the price of a move; `gap` should be what that costs, in requests. Costs a look-up, and a
pick of `leastconn` where the own server is busy. Best for caches that are expensive but can be
rebuilt, under sessions of very different length. Misleads for state that a server must have: that
belongs to affinity. Sessions are those of this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import Field

from hermes_lb.balancing.base import Tracker
from hermes_lb.balancing.explanation import Explanation
from hermes_lb.balancing.hashing import key_source
from hermes_lb.balancing.least_sessions import SessionOptions
from hermes_lb.balancing.leastconn import LeastConn
from hermes_lb.balancing.live_sessions import LiveSessions
from hermes_lb.options.units import Duration

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.backends.pool import Ticket
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request


class StealingOptions(SessionOptions):
    gap: float = Field(4.0, ge=1.0, le=1_000_000.0)  # requests that the other server has less
    rest: Duration = 30.0  # how long a session stays after a move


DEFAULTS: Final = StealingOptions()


class SessionStealing(Tracker):
    """`balance = "session_stealing"`."""

    options = StealingOptions
    rule = (
        "the session's server, unless between turns the least loaded one has `gap` requests less; "
        "of a new session the fewest in flight for its weight"
    )

    def __init__(self, options: StealingOptions = DEFAULTS) -> None:
        self._key = key_source(options.hash_on)
        self._gap: float = options.gap
        self._rest: float = options.rest
        self._sessions = LiveSessions(options.sessions, options.idle, lambda server, change: None)
        self._least = LeastConn()
        self._up: list[Server] = []
        self._mean = 1.0  # weight

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        self.follow(pool)
        session = self._sessions.find(self._key(request), now)
        if session is None or not session.may_stay(pool, request.tried, now):
            return self._least.pick(pool, request, now, rng)
        own = session.server
        load = self._load(pool, own)
        if load < self._gap or session.running or now - session.moved_at < self._rest:
            return own
        other = self._least.pick(pool, request, now, rng)
        if other is None or load - self._load(pool, other) < self._gap:
            return own
        return other

    def started(self, server: Server, request: Request, now: float) -> Ticket | None:
        return self._sessions.started(self._key(request), server, now)

    def _load(self, pool: Pool, server: Server) -> float:
        """Requests in flight, as a server of mean weight would have them."""
        if pool.up is not self._up:
            self._up = pool.up
            self._mean = sum(s.weight for s in pool.up) / (len(pool.up) or 1)
        return server.load * self._mean / (server.weight or 1.0)

    def detach(self, pool: Pool) -> None:
        self._least.detach(pool)
        super().detach(pool)

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        session = self._sessions.find(self._key(view.request), view.now)
        if session is None:
            return self._least.explain(view)
        own, is_running = session.server, session.running > 0
        is_resting = view.now - session.moved_at < self._rest
        ordered = sorted(view.candidates, key=lambda s: self._load(view.pool, s))
        rows = [(s, f", load {self._load(view.pool, s):.4g}") for s in ordered]
        fact = f"the session's server is {own.name}"

        def explanation(picked: Server) -> Explanation:
            if picked is not own:
                is_out = own not in view.candidates
                because = "is the least loaded, and the session's server " + (
                    "cannot take it" if is_out else f"has at least {self._gap:g} requests more"
                )
            elif is_running:
                because = "is the session's server, which has another request of it"
            elif is_resting:
                because = "is the session's server, and it came there lately"
            else:
                because = f"is the session's server; none has {self._gap:g} requests less"
            return Explanation(rows, because, fact)

        return explanation
