"""What a strategy implements.

A strategy reads no clock, does no I/O, and holds no lease: `now` (monotonic, in seconds) and the
random numbers are arguments. It serves one pool, whose servers it may remember.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from hermes_lb.balancing.explanation import Explanation
from hermes_lb.options.section import Section
from hermes_lb.options.units import PositiveDuration

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server, Waiter
    from hermes_lb.backends.pool import Follower, Ticket
    from hermes_lb.balancing.explanation import View
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
    rule: ClassVar[str] = "by a rule of its own"

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
        return lambda picked: Explanation([(picked, "")], "is its pick")

    def figure(self, server: Server, now: float) -> str:
        """The number by which it compares `server`, in words after a comma; empty: none."""
        return ""

    def load_reported(self, server: Server, load: float, now: float) -> None:
        """`server` has reported its load, in requests: in a response, or in a health check's."""

    def forget(self, server: Server) -> None:
        """The server has left the configuration, and its last request has ended."""

    def detach(self, pool: Pool) -> None:
        """Give back to the pool what the strategy keeps of it: another strategy takes over."""


class LearnerOptions(StrategyOptions):
    tau: PositiveDuration = 10.0  # how long what a response said of its server is used


LEARNER_DEFAULTS: Final = LearnerOptions()


class Learner(Strategy):
    """A strategy that learns from responses."""

    options: ClassVar[type[StrategyOptions]] = LearnerOptions

    def answered(self, server: Server, head: ResponseHead, seconds: float, now: float) -> None:
        """A final response head (or a 101) came, `seconds` after the server was picked."""
        raise NotImplementedError


class Tracker(Strategy):
    """A strategy that follows the requests of its pool (`pool.Follower`), once it has called
    `follow`: it sees each lease begin and end, and may order or hold back those that wait.

    A method that is not overridden changes nothing.
    """

    #: What the pool calls in its place: the guard of a user's strategy. None: itself.
    stand_in: Follower | None = None

    def follow(self, pool: Pool) -> None:
        """Follow `pool`: call it at the beginning of each pick."""
        follower = self if self.stand_in is None else self.stand_in
        if pool.follower is not follower:
            pool.follower = follower
            for waiter in pool.waiting:
                follower.joined(waiter)

    def started(self, server: Server, request: Request, now: float) -> Ticket | None:
        """`request` has a lease on `server`: picked, from the queue, or of its session. Return what
        is to be called when it ends."""
        return None

    def has_room(self, server: Server, now: float) -> bool:
        """False: requests of no session wait in the queue rather than at this server. Such a
        strategy picks None while no candidate has room; then it is asked for each server at each
        release, and once a second."""
        return True

    def joined(self, waiter: Waiter) -> None:
        """A request waits in the queue."""

    def left(self, waiter: Waiter) -> None:
        """It waits no more: it is served, or has given up."""

    def next_waiter(self, first: Waiter, accepts: Callable[[Waiter], bool]) -> Waiter:
        """The waiting request to serve next, of those that `accepts` is true for; `first` is the
        one of them that waits longest."""
        return first

    def detach(self, pool: Pool) -> None:
        if pool.follower is self or pool.follower is self.stand_in:
            pool.follower = None
