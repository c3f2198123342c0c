"""Plain integers that the data path adds to; `hermes_lb.observe.metrics` reads them at a scrape."""

from __future__ import annotations

from bisect import bisect_left

# Seconds. From a cached answer on loopback to a long agent turn.
LATENCY_BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
# Seconds. A stream lives as long as an agent's turn, a tunnel as long as a session.
STREAM_BOUNDS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


class Histogram:
    """Counts of observations by upper bound, the last cell for what is above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Add one observation. A value equal to a bound belongs to it (Prometheus: `le`)."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def __add__(self, other: Histogram) -> Histogram:
        """Both together; they have the same bounds."""
        both = Histogram(self.bounds)
        both.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        both.total = self.total + other.total
        return both


class RequestCounters:
    """Requests that ended at one server, or in a backend that had none to give them.

    Most responses come whole: their latency is their time to the first byte. Those are counted
    once, in `at_once`; `latency` and `time_to_first_byte` have only the others.
    """

    __slots__ = (
        "aborted_by_client",
        "aborted_by_server",
        "at_once",
        "bytes_in",
        "bytes_out",
        "connect_errors",
        "latency",
        "responses",
        "resumes",
        "retries",
        "stream_length",
        "time_to_first_byte",
    )

    def __init__(self) -> None:
        self.responses = [0] * 6  # by status class; [0]: ended without a status
        self.bytes_in = 0
        self.bytes_out = 0
        self.retries = 0
        self.resumes = 0
        self.connect_errors = 0
        self.aborted_by_client = 0
        self.aborted_by_server = 0
        self.at_once = Histogram(LATENCY_BOUNDS)
        self.latency = Histogram(LATENCY_BOUNDS)
        self.time_to_first_byte = Histogram(LATENCY_BOUNDS)
        self.stream_length = Histogram(STREAM_BOUNDS)


class FrontendCounters:
    """Client connections of one frontend, and what it answered without asking a backend."""

    __slots__ = ("connections", "connections_total", "refused", "requests")

    def __init__(self) -> None:
        self.connections = 0
        self.connections_total = 0
        self.requests = 0
        self.refused: dict[tuple[int, str], int] = {}  # by status and reason

    def refuse(self, status: int, reason: str) -> None:
        """Count one refusal. `reason` is one of a fixed number of texts, never a stranger's."""
        self.refused[status, reason] = self.refused.get((status, reason), 0) + 1
