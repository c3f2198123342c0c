"""Which server DOES serve: one strategy a file, pure, registered by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.base import Request, Strategy
from hermes_lb.balancing.ip_hash import IpHash
from hermes_lb.balancing.leastconn import LeastConn
from hermes_lb.balancing.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "round_robin": RoundRobin,
    "leastconn": LeastConn,
    "ip_hash": IpHash,
}

__all__ = ["STRATEGIES", "IpHash", "LeastConn", "Request", "RoundRobin", "Strategy"]
