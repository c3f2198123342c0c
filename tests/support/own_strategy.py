"""A strategy of one's own, good until a request asks it for a mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.balancing import Tracker

if TYPE_CHECKING:
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing import Request


class Breaks(Tracker):
    """`balance = "python:tests.support.own_strategy:Breaks"`: the last server."""

    rule = "the last one"

    def __init__(self, options: object = None) -> None:
        self.ended_leases = 0

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        self.follow(pool)
        if b"X-Mistake: raise" in request.request_head:
            raise ValueError("asked for")
        if b"X-Mistake: return" in request.request_head:
            mistake: Any = "agent1"
            return mistake  # type: ignore[no-any-return]
        candidates = pool.candidates(request.tried, now)
        return candidates[-1] if candidates else None

    def started(self, server: Server, request: Request, now: float) -> Any:
        if b"X-Mistake: start" in request.request_head:
            raise ValueError("asked for")
        return self

    def ended(self, output: int) -> None:
        self.ended_leases += 1
