"""The key's server while it has room, else another with room, else the request waits here.

SkyWalker (arXiv 2505.24095, EuroSys 2026) pushes a request to a replica only if that has no queue
of its own worth the name, and keeps it at the balancer otherwise, where it can still go to the
replica that is free first. Here a server has room while its load is below `slots` + `queue`, times
its share of the weight: the requests that it works on at once, and those that may wait in it. The
load is the one that it reports (`X-Hermes-Load`, as in `least_load`), or else the requests in
flight. First the key's servers are tried, in the order of the ring of `consistent_hash`, then the
least loaded one. Costs a hash, a search and a heap. Best for servers that batch a known number of
requests, and turns of very different length. Misleads with `slots` too low, where servers idle
while requests wait, and too high, where it does nothing. `max_connections` is a hard limit beside
it, also for sessions by affinity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import Field

from hermes_lb.balancing.base import Learner, LearnerOptions, Tracker
from hermes_lb.balancing.consistent_hash import ConsistentHash
from hermes_lb.balancing.explanation import Explanation, hindrance
from hermes_lb.balancing.hashing import HashOptions, KeyOptions, hash64
from hermes_lb.balancing.least_load import LeastLoad
from hermes_lb.balancing.leastconn import LeastConn
from hermes_lb.options.units import PositiveDuration

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request
    from hermes_lb.http import ResponseHead

# Points of the ring that are looked at for a key: beyond, its cache is cold anyway.
_STEPS: Final = 4


class PushOptions(KeyOptions):
    tau: PositiveDuration = 10.0  # how long a reported load is used
    slots: int = Field(64, ge=1, le=1_000_000)  # requests that a server of mean weight works on
    queue: int = Field(1, ge=0, le=1_000_000)  # and that may wait in it


DEFAULTS: Final = PushOptions()


class SelectivePush(ConsistentHash, Learner, Tracker):
    """`balance = "selective_push"`."""

    options = PushOptions
    rule = (
        "the first on the key's ring with room, else the least loaded with room, else it waits; "
        "room: a load below `slots` + `queue`"
    )

    def __init__(self, options: PushOptions = DEFAULTS) -> None:
        super().__init__(HashOptions(hash_on=options.hash_on, load_factor=0.0))
        self._most = options.slots + options.queue
        self._reports = LeastLoad(LearnerOptions(tau=options.tau))
        self._least = LeastConn()

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        self.follow(pool)
        self._prepare(pool)
        if self._weight_up:
            tried = request.tried
            for server in self._ring.preferred(hash64(self._key(request)), _STEPS):
                if server.can_take(now) and server not in tried and self.has_room(server, now):
                    return server
        least = self._least.pick(pool, request, now, rng)
        return least if least is not None and self.has_room(least, now) else None

    def has_room(self, server: Server, now: float) -> bool:
        total = self._weight_up
        share = server.weight * len(self._up) / total if total else 1.0
        return self._reports.load(server, now) < self._most * share

    def answered(self, server: Server, head: ResponseHead, seconds: float, now: float) -> None:
        self._reports.answered(server, head, seconds, now)

    def load_reported(self, server: Server, load: float, now: float) -> None:
        self._reports.load_reported(server, load, now)

    def forget(self, server: Server) -> None:
        self._reports.forget(server)

    def detach(self, pool: Pool) -> None:
        self._least.detach(pool)
        Tracker.detach(self, pool)

    def figure(self, server: Server, now: float) -> str:
        has_room = "" if self.has_room(server, now) else ": no room"
        return f"{self._reports.figure(server, now)}{has_room}"

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        self._prepare(view.pool)
        key = self._key(view.request)
        near: list[Server] = []
        if self._weight_up:
            near = list(dict.fromkeys(self._ring.preferred(hash64(key), _STEPS)))
        fact = f"by the hash of {key.decode(errors='replace')}, at most {self._most} in a server"

        def explanation(picked: Server) -> Explanation:
            shown = near if picked in near else [*near, picked]
            rows = [(s, hindrance(s, view) or self.figure(s, view.now)) for s in shown]
            if picked not in near:
                because = "is the least loaded; none of the key's servers has room"
            elif picked is near[0]:
                because = "is the key's own server, and has room"
            else:
                because = "is the first of the key's servers with room"
            return Explanation(rows, because, fact)

        return explanation
