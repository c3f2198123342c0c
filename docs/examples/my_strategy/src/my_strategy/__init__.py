"""An example: of some servers drawn at random, the one with the fewest requests in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from hermes_lb.balancing import Strategy, StrategyOptions

if TYPE_CHECKING:
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing import Request


class Options(StrategyOptions):
    """`[backends.NAME.strategy]`."""

    choices: int = Field(3, ge=1, le=100)  # servers that are compared


DEFAULTS = Options()


class FewestQueued(Strategy):
    """`balance = "fewest_queued"`, or `"python:my_strategy:FewestQueued"`."""

    options = Options
    rule = "the fewest in flight, of some that were drawn"

    def __init__(self, options: Options = DEFAULTS) -> None:
        self._choices = options.choices

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        candidates = pool.candidates(request.tried, now)
        if not candidates:
            return None
        drawn = [rng.choice(candidates) for _ in range(self._choices)]
        return min(drawn, key=lambda server: server.load / (server.weight or 1.0))
