"""What is known of one exchange, from its request head to its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.observe.escaping import NOTHING_CAPTURED
from hermes_lb.proxy import phases

if TYPE_CHECKING:
    import asyncio

    from hermes_lb.affinity import Reading, Stuck
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


_NEVER = float("inf")


class ExchangeState:
    """Times are monotonic seconds, -1 for a phase that was not reached; sizes are bytes."""

    __slots__ = (
        # The request.
        "client",
        "context",
        # Which phase, and until when: written by `enter` alone.
        "phase",
        "deadline",
        "saw_traffic",  # since then, or the last sweep: an IDLE deadline restarts
        "limits",  # by phase; those of before a reload stay
        "_taken",  # bytes that both sides had read at the last look
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
        "stuck",  # the key that pinned it, and its rule
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
        self.phase = phases.ROUTE
        self.deadline = _NEVER
        self.saw_traffic = False
        self.limits = self.context.phase_limits
        self._taken = 0
        self.head = head
        self.client_address = client.address
        self.request_head = b""
        self.upload: Upload | None = None
        self.backend: Backend | None = None
        self.is_logged = True
        self.cookie: bytes | None = None
        self.reading: Reading | None = None
        self.pinned_to: Server | None = None
        self.stuck: Stuck | None = None
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
        return f"<Exchange {request}, {phases.NAMES[self.phase]}{where}>"

    def enter(self, phase: int, now: float, until: float = _NEVER) -> None:
        """The next phase begins `now`; its deadline is `until` at the latest.

        Raises IllegalTransition if the table does not have it, and changes nothing then.
        """
        if not phases.FOLLOWED_BY[self.phase] >> phase & 1:
            raise phases.IllegalTransition(self.phase, phase)
        self.phase = phase
        deadline = now + self.limits[phase]
        self.deadline = deadline if deadline < until else until
        self.saw_traffic = False
        if phases.HAS_PROGRESS[phase]:
            self._taken = self.bytes_taken()

    def bytes_taken(self) -> int:
        """How much of what was written to either side its socket has taken."""
        unsent = self.client.unsent
        if self.upstream is not None:
            unsent += self.upstream.unsent
        return self.bytes_in + self.bytes_out - unsent

    @property
    def is_over(self) -> bool:
        return self.phase == phases.END

    @property
    def letter(self) -> str:
        """The phase as the log has it."""
        return phases.LETTERS[self.phase]

    @property
    def is_queued(self) -> bool:
        """True while it waits for a free place on a server."""
        return self.phase == phases.QUEUE

    def waited(self) -> float:
        """HAProxy's Tw in seconds: in the queue, and in attempts before. -1: not come so far."""
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
        return self.stuck is not None and self.stuck.rule.is_strict

    @property
    def may_keep_client(self) -> bool:
        """True if the client's connection can go on behind an answer of our own."""
        return self.head.keep_alive and self.is_request_read and self.context.keeps_clients

    # What the parts of `Exchange` ask of each other.

    def server_failed(self, error: ServerFailed) -> None:
        raise NotImplementedError

    def dispatch(self, now: float) -> None:
        raise NotImplementedError

    def stop_waiting(self, now: float) -> None:
        raise NotImplementedError

    def finish(self, termination: str, now: float) -> None:
        raise NotImplementedError
