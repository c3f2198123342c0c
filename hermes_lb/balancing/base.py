"""What a strategy implements.

A strategy reads no clock, does no I/O, and holds no lease: `now` (monotonic, in seconds) and the
random numbers are arguments. It serves one pool, whose servers it may remember.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from hermes_lb.options.section import Section
from hermes_lb.options.units import PositiveDuration

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import Explanation, View
    from hermes_lb.balancing.request import Request
    from hermes_lb.http import ResponseHead


class StrategyOptions(Section):
    """`[backends.NAME.strategy]`: the keys of one strategy; none, unless it declares its own."""

    @property
    def header_keys(self) -> tuple[str, ...]:
        """Names of the request's header fields that a pick depends on."""
        return ()


NO_OPTIONS: Final = StrategyOptions()


class Strategy:
    """An algorithm that picks a server."""

    options: ClassVar[type[StrategyOptions]] = StrategyOptions
    #: How it picks, in one sentence, for the laboratory.
    rule: ClassVar[str]

    def __init__(self, options: StrategyOptions = NO_OPTIONS) -> None:
        """With options of the class `self.options`."""

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        """One of `pool.candidates(request.tried, now)`, or None if there is none."""
        raise NotImplementedError

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        """Why `pick` takes the server it takes.

        Call it just before the pick, and its result after the pick with the server that was
        picked, before that one is leased. It changes neither the strategy nor the pool; random
        numbers come from `view.rng`.
        """
        raise NotImplementedError

    def figure(self, server: Server, now: float) -> str:
        """The number by which it compares `server`, in words after a comma; empty: none."""
        return ""

    def load_reported(self, server: Server, load: float, now: float) -> None:
        """`server` has reported its load, in requests: in a response, or in a health check's."""

    def detach(self, pool: Pool) -> None:
        """Give back to the pool what the strategy keeps of it: another strategy takes over."""


class LearnerOptions(StrategyOptions):
    tau: PositiveDuration = 10.0  # how long what a response said of its server is used


LEARNER_DEFAULTS: Final = LearnerOptions()


class Learner(Strategy):
    """A strategy that learns from responses."""

    options = LearnerOptions

    def answered(self, server: Server, head: ResponseHead, seconds: float, now: float) -> None:
        """A final response head (or a 101) came, `seconds` after the server was picked."""
        raise NotImplementedError

    def forget(self, server: Server) -> None:
        """The server has left the configuration, and its last request has ended."""
        raise NotImplementedError
