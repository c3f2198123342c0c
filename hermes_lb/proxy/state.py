"""What is known of one exchange, from its request head to its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.observe.escaping import NOTHING_CAPTURED

if TYPE_CHECKING:
    import asyncio

    from hermes_lb.affinity import Reading, SessionKey
    from hermes_lb.backends import Lease, Server
    from hermes_lb.errors import ServerFailed
    from hermes_lb.http import RequestHead
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.http1.client import ClientConnection
    from hermes_lb.proxy.http1.upstream import UpstreamConnection
    from hermes_lb.proxy.resume import EventStream, StreamRules
    from hermes_lb.proxy.select import Backend
    from hermes_lb.proxy.tunnel import Tunnel
    from hermes_lb.proxy.upload import Upload


class ExchangeState:
    """Times are monotonic seconds, -1 for a phase that was not reached; sizes are bytes."""

    __slots__ = (
        # The request.
        "client",
        "context",
        "phase",
        "is_over",
        "head",
        "client_address",
        "request_head",  # as the server gets it; kept until its response begins
        "upload",  # its body, if it has one
        # Where it goes.
        "backend",
        "is_logged",
        "cookie",
        "reading",  # what it says, if it has dates
        "pinned_to",
        "session_key",
        "tried",
        "lease",
        "server",  # the last one that was picked
        "upstream",
        "dialing",  # or the question where its session lives
        "turn_around",  # the pause before another attempt
        "must_dial",  # a kept connection was found closed: others may be, too
        "passed_over",  # the server that had it, until it has been asked on a fresh one
        "retries",
        "queue_position",
        # The response.
        "status",
        "is_stream",
        "informational_responses",
        "keeps_client",  # the client's connection goes on behind this response
        "tunnel",
        "rules",  # of its route, for streams
        "stream",  # of events, if it has rules
        # For the record.
        "started_at",
        "head_at",
        "dispatched_at",
        "connected_at",
        "response_at",
        "bytes_in",
        "bytes_out",
        "response_letter",  # of the affinity cookie, where there is one
        "reason",  # why it was refused or failed, for a person
        "captured",  # fields of the request that its log line shows
    )

    def __init__(self, client: ClientConnection, head: RequestHead, now: float) -> None:
        self.client = client
        self.context: Context = client.context
        self.phase = "R"
        self.is_over = False
        self.head = head
        self.client_address = client.address
        self.request_head = b""
        self.upload: Upload | None = None
        self.backend: Backend | None = None
        self.is_logged = True
        self.cookie: bytes | None = None
        self.reading: Reading | None = None
        self.pinned_to: Server | None = None
        self.session_key: SessionKey | None = None
        self.tried: tuple[Server, ...] = ()
        self.lease: Lease | None = None
        self.server: Server | None = None
        self.upstream: UpstreamConnection | None = None
        self.dialing: asyncio.Task[None] | None = None
        self.turn_around: asyncio.TimerHandle | None = None
        self.must_dial = False
        self.passed_over: Server | None = None
        self.retries = 0
        self.queue_position = 0
        self.status = 0
        self.is_stream = False
        self.informational_responses = 0
        self.keeps_client = False
        self.tunnel: Tunnel | None = None
        self.rules: StreamRules | None = None
        self.stream: EventStream | None = None
        self.started_at = client.received_at
        self.head_at = now
        self.dispatched_at = -1.0
        self.connected_at = -1.0
        self.response_at = -1.0
        self.bytes_in = 0
        self.bytes_out = 0
        self.response_letter = "N"
        self.reason = ""
        self.captured = NOTHING_CAPTURED

    def __repr__(self) -> str:
        where = f" at {self.server.name}" if self.server else ""
        request = f"{self.head.method.decode()} {self.head.target!r}"
        return f"<Exchange {request}, phase {self.phase}{where}>"

    @property
    def letter(self) -> str:
        """The phase for the log, where a tunnel is data like any other."""
        return "D" if self.phase == "T" else self.phase

    @property
    def is_queued(self) -> bool:
        """True while it waits for a free place on a server."""
        return self.phase == "Q"

    def waited(self, now: float) -> float:
        """HAProxy's Tw in seconds: in the queue, and in attempts before. -1: not come so far."""
        if self.phase == "Q" and self.stream is None:  # in vain
            return now - self.head_at
        return self.dispatched_at - self.head_at if self.dispatched_at >= 0.0 else -1.0

    @property
    def is_request_read(self) -> bool:
        """True once all of the request has been received."""
        if self.upload is not None:
            return self.upload.is_read
        return not self.head.length or self.bytes_in > 0  # it came whole, or was not looked at

    @property
    def is_strict(self) -> bool:
        """Only the server that its key is pinned to will do."""
        return self.session_key is not None and self.session_key.rule.is_strict

    @property
    def may_keep_client(self) -> bool:
        """True if the client's connection can go on behind an answer of our own."""
        return self.head.keep_alive and self.is_request_read and self.context.keeps_clients

    # What the parts of `Exchange` ask of each other.

    def server_failed(self, error: ServerFailed) -> None:
        raise NotImplementedError

    def dispatch(self, now: float) -> None:
        raise NotImplementedError

    def stop_waiting(self) -> None:
        raise NotImplementedError

    def finish(self, termination: str, now: float) -> None:
        raise NotImplementedError
