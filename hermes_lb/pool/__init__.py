"""Who MAY serve: servers, their states, leases, counters, and the wait queue."""

from hermes_lb.pool.counters import FrontendCounters, Histogram, RequestCounters
from hermes_lb.pool.pool import Lease, Pool, Waiter
from hermes_lb.pool.server import Server

__all__ = [
    "FrontendCounters",
    "Histogram",
    "Lease",
    "Pool",
    "RequestCounters",
    "Server",
    "Waiter",
]
