"""What can go wrong with a request: whose fault, in which phase, and is a retry safe.

An error becomes a response to the client in one place only, `hermes_lb.proxy.reply_texts`. The two
letters of `termination` are HAProxy's (configuration manual, section 8.5, "Session state at
disconnection"): who ended it (C client, S server, D server marked down, P proxy, R resource; c
and s: their timeouts), and in which phase (R request head, Q queue, C connect, H response head,
D data, L last bytes).

    HermesError
      RequestRefused    the client's request can't be accepted: 4xx, 501, 505, 508
      ExchangeFailed    no (whole) response could be had for it
        NoServer          nobody may serve, or the wait in the queue was too long
        Exhausted         this machine has no descriptor, port or memory left for it
        ServerFailed      a server was picked and let us down
"""

from __future__ import annotations

import errno
from enum import Enum


class Retry(Enum):
    """May the same request be sent again, to another server? (docs/life-of-a-request.md)"""

    SAFE = "nothing was sent"
    REPEATABLE_ONLY = "the server may have executed it: only requests that may be repeated"
    NEVER = "the client has seen a part of the response"


class HermesError(Exception):
    """The root of the tree. `str(error)` is one line for a person."""


class RequestRefused(HermesError):
    """The client's fault, in phase R: nothing of this request has been forwarded.

    `reason` is told to the client and is a label of a metric, so no stranger's words are in it.
    `retry_after`: seconds until the same would be accepted, 0 for never.
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
    """A server sent something that is not one unambiguous HTTP/1.1 response."""


class InvalidBody(HermesError):
    """A message body broke its own framing, or ended before its end."""


class ExchangeFailed(HermesError):
    """Not the client's fault: it gets `status`, and the log gets `termination`."""

    status = 503
    termination = "SC"
    retry = Retry.NEVER


class NoServer(ExchangeFailed):
    """No server is available: all are down, failed or already tried."""

    termination = "SC"


class QueueTimeout(NoServer):
    """Every server was full for all of `timeouts.queue`."""

    termination = "sQ"


class Exhausted(ExchangeFailed):
    """No descriptor, port or memory is left here: that says nothing of the server."""

    termination = "RC"


# What fails for lack of something on this machine: descriptors, memory, local ports.
EXHAUSTION = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL)
)


class ServerFailed(ExchangeFailed):
    """A server was picked and failed; this counts against it (nginx `max_fails`)."""


class ConnectFailed(ServerFailed):
    """Refused, reset or unreachable: nothing was sent."""

    termination = "SC"
    retry = Retry.SAFE


class ConnectTimeout(ServerFailed):
    """No connection within `timeouts.connect`: nothing was sent."""

    termination = "sC"
    retry = Retry.SAFE


class ClosedBeforeResponse(ServerFailed):
    """The connection closed before any byte of the response: executed or not, who knows."""

    status = 502
    termination = "SH"
    retry = Retry.REPEATABLE_ONLY


class ClosedInHead(ServerFailed):
    """The connection closed within the response's head: the client has seen nothing of it.

    nginx retries it as any `error`; HAProxy's letters are the same ("before sending its full HTTP
    response headers").
    """

    status = 502
    termination = "SH"
    retry = Retry.REPEATABLE_ONLY


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
    """No response head within `timeouts.server`: the server may still be at work, so no retry."""

    status = 504
    termination = "sH"
