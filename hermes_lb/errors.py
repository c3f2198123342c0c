"""Errors of a request: whose fault, in which phase, and whether a retry is safe.

Errors become responses in one place, `hermes_lb.proxy.local_replies`. The two letters of
`termination` are HAProxy's (configuration manual, section 8.5, "Session state at
disconnection"): who ended it (C client, S server, D server marked down, P proxy, R resource; c
and s: their timeouts), and in which phase (R request head, Q queue, C connect, H response head,
D data, L last bytes).

    HermesError
      RequestRefused    the client's request can't be accepted: 4xx, 501, 505, 508
      ExchangeFailed    no (complete) response is available
        NoServer          no server is available, or the queue timeout has expired
          SessionLost     only the server of its session could answer
        Exhausted         this machine is out of descriptors, ports or memory
        ServerFailed      a server was selected and failed
"""

from __future__ import annotations

import errno
from enum import Enum


class Retry(Enum):
    """Whether the request may be sent again, to another server (docs/life-of-a-request.md)."""

    SAFE = "nothing was sent"
    REPEATABLE_ONLY = "the server may have executed it: only requests that may be repeated"
    NEVER = "the client has seen a part of the response"


class HermesError(Exception):
    """Base class. `str(error)` is a one-line message."""


class RequestRefused(HermesError):
    """The client's fault, in phase R: nothing of this request has been forwarded.

    `reason` is sent to the client and is a metric's label, so it must not contain input.
    `retry_after`: seconds until the request would be accepted, 0 for never.
    """

    def __init__(
        self, status: int, reason: str, termination: str = "PR", *, retry_after: int = 0
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.termination = termination
        self.retry_after = retry_after


class InvalidResponse(HermesError):
    """A server sent something other than one unambiguous HTTP/1.1 response."""


class InvalidBody(HermesError):
    """A message body violated its framing or ended early."""


class ExchangeFailed(HermesError):
    """Not the client's fault: it gets `status`, and the log gets `termination`."""

    status = 503
    termination = "SC"
    retry = Retry.NEVER


class NoServer(ExchangeFailed):
    """No server is available: all are down, failed or already tried."""

    termination = "SC"


class SessionLost(NoServer):
    """The session ended with its server: its client has to begin another one (`on_lost = "404"`).

    As MCP 2025-11-25 has it (Streamable HTTP, session management).
    """

    status = 404


class QueueTimeout(NoServer):
    """Every server was full for all of `timeouts.queue`."""

    termination = "sQ"


class Exhausted(ExchangeFailed):
    """Out of descriptors, ports or memory here: not the server's fault."""

    termination = "RC"


# Errors of an exhausted machine: descriptors, memory, local ports.
EXHAUSTION = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL)
)


class ServerFailed(ExchangeFailed):
    """A selected server failed; this counts against it (nginx `max_fails`)."""


class ConnectFailed(ServerFailed):
    """Refused, reset or unreachable: nothing was sent."""

    termination = "SC"
    retry = Retry.SAFE


class ConnectTimeout(ServerFailed):
    """No connection within `timeouts.connect`: nothing was sent."""

    termination = "sC"
    retry = Retry.SAFE


class ClosedBeforeResponse(ServerFailed):
    """The connection closed before any byte of the response: it may have been executed."""

    status = 502
    termination = "SH"
    retry = Retry.REPEATABLE_ONLY


class ClosedInHead(ServerFailed):
    """The connection closed within the response head, of which the client has seen nothing; or a
    server by HTTP/2 has not answered a PING.

    nginx retries it as any `error`; HAProxy's letters are the same ("before sending its full HTTP
    response headers").
    """

    status = 502
    termination = "SH"
    retry = Retry.REPEATABLE_ONLY


class NotProcessed(ServerFailed):
    """HTTP/2: the server has refused the stream, or has gone away before it.

    It has done nothing for the request, and that is no failure (RFC 9113 section 8.7).
    """

    termination = "SH"
    retry = Retry.SAFE


class MarkedDown(ServerFailed):
    """Its checks have marked it down before the response's head, and nothing waits for it any more.

    HAProxy's letter is D (`on-marked-down shutdown-sessions`).
    """

    status = 502
    termination = "DH"
    retry = Retry.REPEATABLE_ONLY


class BadResponse(ServerFailed):
    """The response is malformed or ambiguous."""

    status = 502
    termination = "PH"


class ResponseTimeout(ServerFailed):
    """No response head within `timeouts.server`: it may still be executed, so no retry."""

    status = 504
    termination = "sH"


def reason(error: BaseException) -> str:
    """The message for people: of an OSError without number and file name."""
    return getattr(error, "strerror", None) or str(error)
