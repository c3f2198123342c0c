"""Plain numbers that the data path adds to; `hermes_lb.observe.metrics` reads them at a scrape.

Each record is also a row of `cells`, of a fixed width and all numbers: a worker process writes its
rows to shared memory, and whoever looks loads the sum of all processes' rows.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Seconds. From a cached answer on loopback to a long agent turn.
LATENCY_BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
# Seconds. A stream lives as long as an agent's turn, a tunnel as long as a session.
STREAM_BOUNDS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
# Seconds. A dial takes a round trip, or as many as TLS needs; 1 and 3 s are the kernel's first
# retries of a lost SYN. A wait in the queue may take as long as what it waits for.
WAIT_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 30.0, 60.0)

# Of refusals, each a time series of every frontend. There are some 40; limits that are part of the
# text change with the configuration.
MOST_REASONS = 100

# What became of a stream of events whose server was lost, by the rules of `proxy.stream`.
RESUME_OUTCOMES = (
    "resumed",  # another server went on
    "handed_over",  # the same, and the server had asked for it
    "moved",  # the same, and its checks had found that the server stood still
    "gave_up",  # no server went on: the client's connection was cut
    "gone",  # a server knew that there is nothing to go on with: the same
    "not_resumable",  # it could not be resumed where it was: the same
    "client_left",  # while another server was looked for
)


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

    def move(self, seconds: float, to: float) -> None:
        """Count an observation of `seconds` as one of `to`."""
        self.counts[bisect_left(self.bounds, seconds)] -= 1
        self.counts[bisect_left(self.bounds, to)] += 1
        self.total += to - seconds

    def __add__(self, other: Histogram) -> Histogram:
        """Both together; they have the same bounds."""
        both = Histogram(self.bounds)
        both.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        both.total = self.total + other.total
        return both

    @property
    def count(self) -> int:
        """Of all observations."""
        return sum(self.counts)

    @property
    def width(self) -> int:
        """How many cells it is."""
        return len(self.bounds) + 2

    def cells(self) -> list[float]:
        return [*self.counts, self.total]

    def load(self, cells: Sequence[float]) -> None:
        """Become what `cells` told of another."""
        *counts, self.total = cells
        self.counts[:] = map(int, counts)


class RequestCounters:
    """Requests that ended at one server, or in a backend that had none to give them.

    Most responses come whole, on a connection that was there already. Such a request costs one
    observation, in `at_once`, and the others correct it: `latency` and `time_to_first_byte` have
    only the responses that did not come whole; `waiting`, `late` and `response_shift` only the
    requests that were not sent at once. The properties put them together.
    """

    __slots__ = (
        "aborted_by_client",
        "aborted_by_server",
        "at_once",
        "bytes_in",
        "bytes_out",
        "connect_errors",
        "dial",
        "late",
        "latency",
        "response_shift",
        "responses",
        "resume_outcomes",
        "resumes",
        "retries",
        "stream_length",
        "time_to_first_byte",
        "waiting",
    )

    WIDTH: ClassVar[int]

    def __init__(self) -> None:
        self.responses = [0] * 6  # by status class; [0]: ended without a status
        self.bytes_in = 0
        self.bytes_out = 0
        self.retries = 0
        self.resumes = 0
        self.connect_errors = 0
        self.aborted_by_client = 0
        self.aborted_by_server = 0
        self.resume_outcomes = [0] * len(RESUME_OUTCOMES)
        self.late = 0  # requests that were not sent at once, or never
        self.at_once = Histogram(LATENCY_BOUNDS)
        self.latency = Histogram(LATENCY_BOUNDS)
        self.time_to_first_byte = Histogram(LATENCY_BOUNDS)
        self.response_shift = Histogram(LATENCY_BOUNDS)  # its counts may be below 0
        self.stream_length = Histogram(STREAM_BOUNDS)
        self.waiting = Histogram(WAIT_BOUNDS)
        self.dial = Histogram(WAIT_BOUNDS)  # connections made, and how long that took

    # Of all requests.

    @property
    def duration(self) -> Histogram:
        """From the first byte of the request to the last of the response."""
        return self.at_once + self.latency

    @property
    def first_byte(self) -> Histogram:
        """From the first byte of the request to the first of the response, where there was one."""
        return self.at_once + self.time_to_first_byte

    @property
    def response_head(self) -> Histogram:
        """From a connection to the first byte of the response: the server's own part of it."""
        return self.first_byte + self.response_shift

    @property
    def queue_wait(self) -> Histogram:
        """From the request head to a server, for queue and retries; most do not wait."""
        waits = self.waiting + Histogram(WAIT_BOUNDS)
        waits.counts[0] += self.duration.count - self.late
        return waits

    # As a row.

    def cells(self) -> list[float]:
        """`WIDTH` numbers, for `load` and `add_up`. Below 1 us."""
        return [
            self.bytes_in, self.bytes_out, self.retries, self.resumes, self.connect_errors,
            self.aborted_by_client, self.aborted_by_server, self.late, *self.responses,
            *self.at_once.counts, self.at_once.total,
            *self.latency.counts, self.latency.total,
            *self.time_to_first_byte.counts, self.time_to_first_byte.total,
            *self.response_shift.counts, self.response_shift.total,
            *self.stream_length.counts, self.stream_length.total,
            *self.waiting.counts, self.waiting.total,
            *self.dial.counts, self.dial.total,
            *self.resume_outcomes,
        ]  # fmt: skip

    def load(self, cells: Sequence[float]) -> None:
        """Become what `cells` told of another, or of several (`add_up`)."""
        rest = iter(cells)
        self.bytes_in, self.bytes_out, self.retries, self.resumes = _integers(rest, 4)
        self.connect_errors, self.aborted_by_client, self.aborted_by_server = _integers(rest, 3)
        (self.late,) = _integers(rest, 1)
        self.responses[:] = _integers(rest, len(self.responses))
        for histogram in (
            self.at_once, self.latency, self.time_to_first_byte, self.response_shift,
            self.stream_length, self.waiting, self.dial,
        ):  # fmt: skip
            histogram.load(list(islice(rest, histogram.width)))
        self.resume_outcomes[:] = _integers(rest, len(RESUME_OUTCOMES))


RequestCounters.WIDTH = len(RequestCounters().cells())


class FrontendCounters:
    """Client connections of one frontend, and what it answered without asking a backend."""

    __slots__ = ("connections", "connections_total", "refused", "requests", "tls_failures")

    WIDTH: ClassVar[int]

    def __init__(self) -> None:
        self.connections = 0
        self.connections_total = 0
        self.requests = 0
        self.tls_failures = 0  # handshakes that came to nothing
        self.refused: dict[tuple[int, str], int] = {}  # by status and reason

    def refuse(self, status: int, reason: str) -> None:
        """Count one refusal. `reason` is one of a fixed number of texts, never a stranger's."""
        if len(self.refused) >= MOST_REASONS and (status, reason) not in self.refused:
            reason = "other"
        self.refused[status, reason] = self.refused.get((status, reason), 0) + 1

    def cells(self) -> list[float]:
        """`WIDTH` numbers: all but `refused`, which grows with the reasons that occur."""
        return [self.connections, self.connections_total, self.requests, self.tls_failures]

    def load(self, cells: Sequence[float]) -> None:
        """Become what `cells` told of another, or of several (`add_up`)."""
        numbers = _integers(iter(cells), self.WIDTH)
        self.connections, self.connections_total, self.requests, self.tls_failures = numbers


FrontendCounters.WIDTH = len(FrontendCounters().cells())


def add_up(rows: Iterable[Sequence[float]]) -> list[float]:
    """The sum of the rows of several processes, cell by cell; at least one row."""
    return list(map(sum, zip(*rows, strict=True)))


def _integers(cells: Iterator[float], count: int) -> list[int]:
    """They are integers, and shared memory made floats of them (exact up to 2**53)."""
    return list(map(int, islice(cells, count)))
