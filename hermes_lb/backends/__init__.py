"""Which servers may serve: their states, leases, counters, and the queue."""

from hermes_lb.backends.counters import FrontendCounters, RequestCounters
from hermes_lb.backends.histogram import Histogram
from hermes_lb.backends.pool import Lease, Pool, Waiter
from hermes_lb.backends.server import Server

__all__ = [
    "FrontendCounters",
    "Histogram",
    "Lease",
    "Pool",
    "RequestCounters",
    "Server",
    "Waiter",
]
