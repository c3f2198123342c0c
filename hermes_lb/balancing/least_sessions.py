"""The server with the fewest live sessions for a new one; a session keeps its server.

vLLM router, pull request 235 (`sticky_least_loaded`): a new session goes to the worker with the
fewest active sessions and stays until it expires or the worker is unavailable. A session is a key
(`hash_on`); it is live while it has a request in flight and for `idle` seconds after its last one
began. Costs two look-ups and a heap. Best for agents, whose sessions pause between their turns: a
server that has nothing in flight at the moment may be expected back by a hundred of them, and
`leastconn` would give it a hundred more. Misleads where sessions differ much in work, and where
keys do not recur: each request is a session then. Sessions are those of this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import Field

from hermes_lb.balancing.base import Tracker
from hermes_lb.balancing.explanation import Explanation, names
from hermes_lb.balancing.hashing import KeyOptions, key_source
from hermes_lb.balancing.live_sessions import LiveSessions
from hermes_lb.balancing.ranking import Ranking
from hermes_lb.options.units import PositiveDuration

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.backends.pool import Ticket
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request


class SessionOptions(KeyOptions):
    idle: PositiveDuration = 600.0  # how long a session is live after its last request began
    sessions: int = Field(10_000, ge=16, le=1_000_000)  # that are remembered


DEFAULTS: Final = SessionOptions()


class LeastSessions(Tracker):
    """`balance = "least_sessions"`."""

    options = SessionOptions
    rule = (
        "the session's server; of a new session the one with the fewest live sessions for its "
        "weight, of equals the next by weight"
    )

    def __init__(self, options: SessionOptions = DEFAULTS) -> None:
        self._key = key_source(options.hash_on)
        self._counts: dict[Server, int] = {}
        self._sessions = LiveSessions(options.sessions, options.idle, self._changed)
        self._ranking = Ranking(self._figure)

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        self.follow(pool)
        session = self._sessions.find(self._key(request), now)
        if session is not None and session.may_stay(pool, request.tried, now):
            return session.server
        return self._ranking.least(pool, request.tried, now)

    def started(self, server: Server, request: Request, now: float) -> Ticket | None:
        return self._sessions.started(self._key(request), server, now)

    def count(self, server: Server) -> int:
        """Its live sessions."""
        return self._counts.get(server, 0)

    def _changed(self, server: Server, change: int) -> None:
        self._counts[server] = count = self._counts.get(server, 0) + change
        if not count:
            del self._counts[server]
        self._ranking.changed(server)

    def _figure(self, server: Server) -> float:
        return self._counts.get(server, 0) / (server.weight or 1.0)

    def forget(self, server: Server) -> None:
        self._ranking.forget(server)

    def figure(self, server: Server, now: float) -> str:
        return f", sessions {self.count(server)}"

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        session = self._sessions.find(self._key(view.request), view.now)
        own = None if session is None else session.server
        servers = self._ranking.in_order(view.pool, view.candidates)
        rows = [(server, self.figure(server, view.now)) for server in servers]
        fact = "" if own is None else f"the session's server is {names([own])}"

        def explanation(picked: Server) -> Explanation:
            if picked is own:
                return Explanation(rows, "is the session's server", fact)
            ties = sum(self._figure(s) == self._figure(picked) for s in servers)
            because = "has the fewest sessions for its weight"
            return Explanation(rows, because + (", and is next" if ties > 1 else ""), fact)

        return explanation
