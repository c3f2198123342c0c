"""All strategies, by their name in `balance`. A new one is a file and an entry here; those of users
are `plugins`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from hermes_lb.balancing import plugins
from hermes_lb.balancing.at_random import AtRandom
from hermes_lb.balancing.consistent_hash import ConsistentHash
from hermes_lb.balancing.dual_map import DualMap
from hermes_lb.balancing.fair_queue import FairQueue
from hermes_lb.balancing.guarded import Guarded
from hermes_lb.balancing.ip_hash import IpHash
from hermes_lb.balancing.least_load import LeastLoad
from hermes_lb.balancing.least_sessions import LeastSessions
from hermes_lb.balancing.least_tokens import LeastTokens
from hermes_lb.balancing.leastconn import LeastConn
from hermes_lb.balancing.maglev import Maglev
from hermes_lb.balancing.p2c import PowerOfTwo
from hermes_lb.balancing.peak_ewma import PeakEwma
from hermes_lb.balancing.plugin_check import in_words
from hermes_lb.balancing.prequal import Prequal
from hermes_lb.balancing.round_robin import RoundRobin
from hermes_lb.balancing.selective_push import SelectivePush
from hermes_lb.balancing.session_stealing import SessionStealing

if TYPE_CHECKING:
    from hermes_lb.balancing.base import Strategy, StrategyOptions

logger = logging.getLogger("hermes_lb.balancing")

STRATEGIES: Final[dict[str, type[Strategy]]] = {
    "round_robin": RoundRobin,
    "leastconn": LeastConn,
    "ip_hash": IpHash,
    "random": AtRandom,
    "consistent_hash": ConsistentHash,
    "maglev": Maglev,
    "p2c": PowerOfTwo,
    "peak_ewma": PeakEwma,
    "prequal": Prequal,
    "least_load": LeastLoad,
    "least_sessions": LeastSessions,
    "least_tokens": LeastTokens,
    "session_stealing": SessionStealing,
    "dual_map": DualMap,
    "selective_push": SelectivePush,
    "fair_queue": FairQueue,
}


def strategy_type(name: str) -> type[Strategy]:
    """The class of a `balance`, also of a user's own. Raises PluginError."""
    return STRATEGIES.get(name) or plugins.loaded(name).found


def make(
    name: str, options: StrategyOptions | None = None, code: plugins.Code | None = None
) -> Strategy:
    """A strategy with these options, or its defaults; a user's own in its guard, of this `code`.

    Raises PluginError if its class can't be had. If its constructor raises, it is round robin.
    """
    found = strategy_type(name) if code is None else code.found
    if name in STRATEGIES:
        return found(found.options() if options is None else options)
    try:
        inner = found(found.options() if options is None else options)
    except (Exception, SystemExit) as error:
        logger.error("strategy %s: %s; it is round robin", name, in_words(error, "__init__"))
        inner = RoundRobin()
    return Guarded(inner, name)
