"""A request that has ended, in plain values: every format of the access log is a function of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hermes_lb.http import RequestHead
    from hermes_lb.observe.escaping import Captured


class ToServer(NamedTuple):
    """How long it took until the server had the request, in seconds; None: not reached."""

    head: float | None  # HAProxy's TR: from the first byte of the request head to the last
    queue: float | None  # Tw: in the queue, and in earlier attempts
    connect: float | None  # Tc


# The whole head at once, no queue, an idle connection: nearly always.
AT_ONCE = ToServer(0.0, 0.0, 0.0)
NEVER_SENT = ToServer(None, None, None)


class Attempts(NamedTuple):
    """How a server was found."""

    retries: int
    is_redispatched: bool  # a retry went to another server
    queue_position: int  # requests that were before it in the queue
    is_pinned: bool  # it waited in the queue of a server, not of the backend


FIRST_ATTEMPT = Attempts(0, is_redispatched=False, queue_position=0, is_pinned=False)


@dataclass(init=False, slots=True)
class LogRecord:
    """Built once, when the request has ended. The record of an unreadable request has empty parts.

    The builder sets every field: a constructor with that many arguments takes half as long as the
    formatting of a line.
    """

    client: str  # address; behind a trusted proxy the client's that it speaks for
    port: int  # of the connection
    frontend: str
    backend: str  # "": none
    server: str
    # Open connections, and requests in flight or in the queue, without this one.
    connections: int
    frontend_connections: int
    backend_load: int
    server_load: int
    began: float  # when the first byte came, in seconds since 1970
    to_server: ToServer
    response: float | None  # HAProxy's Tr, in seconds: from there to the response head
    total: float  # Ta, in seconds
    status: int  # 0: none was sent
    bytes_received: int  # of the body, or through a tunnel
    bytes_sent: int  # heads included
    termination: str  # four letters, `hermes_lb.observe.termination`
    reason: str  # why it was refused or failed
    attempts: Attempts
    request: RequestHead | None
    captured: Captured
    tls: str  # its version, such as TLSv1.3
