"""Load-balancing strategies: pure, one a file, each with its options; `registry` lists them."""

from hermes_lb.balancing.base import Learner, Strategy, StrategyOptions, Tracker
from hermes_lb.balancing.consistent_hash import ConsistentHash
from hermes_lb.balancing.registry import STRATEGIES, make, strategy_type
from hermes_lb.balancing.request import Request

__all__ = [
    "STRATEGIES",
    "ConsistentHash",
    "Learner",
    "Request",
    "Strategy",
    "StrategyOptions",
    "Tracker",
    "make",
    "strategy_type",
]
