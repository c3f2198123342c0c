"""All strategies, by their name in `balance`. A new one is a file and an entry here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.balancing.at_random import AtRandom
from hermes_lb.balancing.consistent_hash import ConsistentHash
from hermes_lb.balancing.dual_map import DualMap
from hermes_lb.balancing.fair_queue import FairQueue
from hermes_lb.balancing.ip_hash import IpHash
from hermes_lb.balancing.least_load import LeastLoad
from hermes_lb.balancing.least_sessions import LeastSessions
from hermes_lb.balancing.least_tokens import LeastTokens
from hermes_lb.balancing.leastconn import LeastConn
from hermes_lb.balancing.maglev import Maglev
from hermes_lb.balancing.p2c import PowerOfTwo
from hermes_lb.balancing.peak_ewma import PeakEwma
from hermes_lb.balancing.prequal import Prequal
from hermes_lb.balancing.round_robin import RoundRobin
from hermes_lb.balancing.selective_push import SelectivePush
from hermes_lb.balancing.session_stealing import SessionStealing

if TYPE_CHECKING:
    from hermes_lb.balancing.base import Strategy

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
