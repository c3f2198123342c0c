"""The table of statistics: plain numbers that the data path adds to.

`hermes_lb.backends.statistics` says what becomes of a row. A new one needs nothing more than the
line here, the place that counts it, and its line in docs/metrics.md.
"""

from __future__ import annotations

from dataclasses import field
from typing import Final

from hermes_lb.backends.histogram import Histogram, refined
from hermes_lb.backends.statistics import Counters, number, numbers, seconds, statistics

# Seconds. The least that uvloop's clock measures.
SHORTEST: Final = 0.001
# Seconds. From a cached answer on loopback to an agent's turn of 2 h: the buckets of the metrics.
LATENCY_BOUNDS = (
    SHORTEST, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0,
    60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0,
)  # fmt: skip
# What is counted, for percentiles: 180 bounds, each bound of the metrics among them.
FINE_BOUNDS = refined(LATENCY_BOUNDS)
# Seconds. A stream lives as long as an agent's turn, a tunnel as long as a session.
STREAM_BOUNDS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
# Seconds. A dial takes a round trip, or as many as TLS needs; 1 and 3 s are the kernel's first
# retries of a lost SYN. A wait in the queue may take as long as what it waits for.
WAIT_BOUNDS = (
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
    7200.0,
)  # fmt: skip

_ABORTED = "Requests cut off before their end, by the side that ended them: client or server"
_RESET = "Streams that were reset, by the side that reset them: client or balancer"

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


# What became of turns, on routes with them.
TURN_OUTCOMES = (
    "done",  # executed, and all of the response came
    "lost",  # executed, perhaps to its end: the outcome is unknown
    "cancelled",  # a client wanted it to end
    "released",  # not executed, or answered in a way that is not kept: the key is free
    "fenced",  # this process has lost it to another one, or left it to one
    "taken_over",  # this process goes on with that of another one
    "joined",  # a request followed a turn that still ran
    "replayed",  # a request got the stored response of a finished turn
    "resumed",  # a request went on behind an event
    "degraded",  # there was no store: refused, or passed without its turn
)

# Why a connection of HTTP/2 was ended with a GOAWAY. The last five are floods.
GOAWAY_CAUSES = (
    "idle",  # no request within `timeouts.keep_alive`, or none at all
    "drain",  # the frontend, the process or the balancer ends, or there are too many connections
    "protocol",  # the client has broken the protocol
    "rapid_reset",  # it reset too many streams
    "continuations",  # a head of too many frames
    "acknowledgements",  # too many acknowledgements of PING and SETTINGS wait for it to read
    "header_list",  # a head of too many fields or bytes, once unpacked
    "glitches",  # too many frames that are legal and of no use
)
IDLE, DRAIN, PROTOCOL, RAPID_RESET, CONTINUATIONS, ACKNOWLEDGEMENTS, HEADER_LIST, GLITCHES = range(
    8
)

# By index of `RequestCounters.responses`; "none": ended without a status.
STATUS_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")


@statistics
class RequestCounters(Counters):
    """Requests that ended at one server, or in a backend that had none to give them.

    Most responses come whole, on a connection that was there already. Such a request costs one
    observation, in `at_once`, and the others correct it: `latency` and `time_to_first_byte` have
    only the responses that did not come whole; `waiting`, `late` and `response_shift` only the
    requests that were not sent at once. The properties put them together.
    """

    bytes_in: int = number("hermes_lb_received_bytes_total", "Bytes received from clients")
    bytes_out: int = number("hermes_lb_sent_bytes_total", "Bytes sent to clients")
    retries: int = number("hermes_lb_retries_total", "Attempts after the first of a request")
    resumes: int = number(
        "hermes_lb_resumes_total", "Streams that a server took over from a lost one"
    )
    connect_errors: int = number("hermes_lb_connect_errors_total", "Failed connections to a server")
    aborted_by_client: int = number("hermes_lb_aborted_total", _ABORTED, by="client")
    aborted_by_server: int = number("hermes_lb_aborted_total", _ABORTED, by="server")
    http2_resets: int = number(
        "hermes_lb_http2_server_resets_total", "Streams that a server has reset"
    )
    http2_goaways: int = number(
        "hermes_lb_http2_server_goaways_total", "Connections that a server ended with a GOAWAY"
    )
    late: int = number()  # requests that were not sent at once, or never
    responses: list[int] = numbers(
        "hermes_lb_requests_total",
        "Requests that ended, by class of their status",
        label="code",
        values=STATUS_CLASSES,
    )
    response_shift: Histogram = seconds(LATENCY_BOUNDS)  # its counts may be below 0
    stream_length: Histogram = seconds(
        STREAM_BOUNDS,
        "hermes_lb_stream_duration_seconds",
        "How long event streams and tunnels lived",
    )
    waiting: Histogram = seconds(WAIT_BOUNDS)
    dial: Histogram = seconds(
        WAIT_BOUNDS,
        "hermes_lb_connect_duration_seconds",
        "How long it took to make a connection to the server, TLS included",
    )
    strategy_failures: int = number()  # of a user's own; a metric of each backend
    turn_outcomes: list[int] = numbers(values=TURN_OUTCOMES)  # a metric of each backend
    resume_outcomes: list[int] = numbers(values=RESUME_OUTCOMES)  # a metric of each backend
    # Added to together with `responses` only.
    at_once: Histogram = seconds(FINE_BOUNDS, is_bulk=True)
    latency: Histogram = seconds(FINE_BOUNDS, is_bulk=True)
    time_to_first_byte: Histogram = seconds(FINE_BOUNDS, is_bulk=True)

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
        return self.first_byte.coarse(LATENCY_BOUNDS) + self.response_shift

    @property
    def queue_wait(self) -> Histogram:
        """From the request head to a server, for queue and retries; most do not wait."""
        waits = self.waiting + Histogram(WAIT_BOUNDS)
        waits.counts[0] += self.duration.count - self.late
        return waits


@statistics
class FrontendCounters(Counters):
    """Client connections of one frontend, and what it answered without asking a backend."""

    connections: int = number("hermes_lb_connections", "Open client connections", kind="gauge")
    connections_total: int = number(
        "hermes_lb_connections_accepted_total", "Accepted client connections"
    )
    requests: int = number("hermes_lb_frontend_requests_total", "Requests received")
    tls_failures: int = number(
        "hermes_lb_tls_handshake_failures_total",
        "TLS handshakes that came to nothing",
        in_api=False,
    )
    http2_connections: int = number(
        "hermes_lb_http2_connections", "Open client connections of HTTP/2", kind="gauge"
    )
    http2_connections_total: int = number(
        "hermes_lb_http2_connections_accepted_total", "Client connections that began by HTTP/2"
    )
    http2_streams: int = number(
        "hermes_lb_http2_streams", "Requests by HTTP/2 that are being served", kind="gauge"
    )
    http2_streams_total: int = number(
        "hermes_lb_http2_streams_opened_total", "Streams that clients have opened"
    )
    http2_requests: int = number(
        "hermes_lb_http2_requests_total", "Requests received by HTTP/2, also counted in all"
    )
    http2_responses: list[int] = numbers(
        "hermes_lb_http2_responses_total",
        "Responses to requests by HTTP/2 that began, by class of their status",
        label="code",
        values=STATUS_CLASSES[2:],
    )
    http2_resets_by_client: int = number("hermes_lb_http2_resets_total", _RESET, by="client")
    http2_resets_by_balancer: int = number("hermes_lb_http2_resets_total", _RESET, by="balancer")
    http2_refused_streams: int = number(
        "hermes_lb_http2_refused_streams_total", "Streams above the number that may be open"
    )
    http2_stalls: int = number(
        "hermes_lb_http2_stalls_total",
        "Times that a response was held back since its client took no more of it",
    )
    http2_goaways: list[int] = numbers(
        "hermes_lb_http2_goaways_total",
        "Connections of HTTP/2 that the balancer has ended with a GOAWAY, by cause",
        label="cause",
        values=GOAWAY_CAUSES,
    )
    # By status and reason. Not a row: it grows with the reasons that occur.
    refused: dict[tuple[int, str], int] = field(default_factory=dict)

    def refuse(self, status: int, reason: str) -> None:
        """Count one refusal. `reason` is one of a fixed number of texts, never a client's."""
        if len(self.refused) >= MOST_REASONS and (status, reason) not in self.refused:
            reason = "other"
        self.refused[status, reason] = self.refused.get((status, reason), 0) + 1


def layout() -> list[list[str | int]]:
    """The cells of both records, in words: processes of other code may have others."""
    rows = (*RequestCounters.ROWS, *FrontendCounters.ROWS)
    return [[row.slot, row.width] for row in rows]
