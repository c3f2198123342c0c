"""Which server DOES serve: one strategy a file, pure, registered by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.at_random import AtRandom
from hermes_lb.balancing.base import Keeper, Learner, Request, Strategy
from hermes_lb.balancing.consistent_hash import ConsistentHash
from hermes_lb.balancing.ip_hash import IpHash
from hermes_lb.balancing.least_load import LeastLoad
from hermes_lb.balancing.leastconn import LeastConn
from hermes_lb.balancing.maglev import Maglev
from hermes_lb.balancing.p2c import PowerOfTwo
from hermes_lb.balancing.peak_ewma import PeakEwma
from hermes_lb.balancing.prequal import Prequal
from hermes_lb.balancing.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.config import StrategyOptions

STRATEGIES: dict[str, Callable[[StrategyOptions], Strategy]] = {
    "round_robin": lambda _: RoundRobin(),
    "leastconn": lambda _: LeastConn(),
    "ip_hash": lambda _: IpHash(),
    "random": lambda _: AtRandom(),
    "consistent_hash": lambda options: ConsistentHash(options.hash_on, options.load_factor),
    "maglev": lambda options: Maglev(options.hash_on, options.load_factor),
    "p2c": lambda _: PowerOfTwo(),
    "peak_ewma": lambda options: PeakEwma(options.tau),
    "prequal": lambda options: Prequal(options.tau),
    "least_load": lambda options: LeastLoad(options.tau),
}

__all__ = [
    "STRATEGIES",
    "AtRandom",
    "ConsistentHash",
    "IpHash",
    "Keeper",
    "Learner",
    "LeastConn",
    "LeastLoad",
    "Maglev",
    "PeakEwma",
    "PowerOfTwo",
    "Prequal",
    "Request",
    "RoundRobin",
    "Strategy",
]
