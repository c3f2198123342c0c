"""One request and its response: its phases from the head to the one end.

The phase and the deadline change in `enter` alone, by the table of `phases`. Both sides are ports;
separable parts have modules of their own: `admit` (whether it may be served, and by which backend),
`select` (by which server), `upload` (its body), `retry` (after a failure), `response` (the head for
the client), `resume` (a stream that continues on another server), `tunnel` (after a 101),
`local_replies`.

A chunk of a response leaves in the loop iteration in which it arrived, without an object or a task
for it. `is_writing_paused` on one side pauses reading on the other, so a slow reader costs the two
socket buffers, one high-water mark and one read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.backends.dialing import Peers
from hermes_lb.errors import (
    BadResponse,
    ClosedBeforeResponse,
    ConnectFailed,
    ConnectTimeout,
    Exhausted,
    InvalidBody,
    MarkedDown,
    NoServer,
    NotProcessed,
    QueueTimeout,
    RequestRefused,
    ResponseTimeout,
)
from hermes_lb.http import UNTIL_CLOSE, ResponseParser
from hermes_lb.http.json_keys import MOST_READ
from hermes_lb.http.limits import INFORMATIONAL_RESPONSES
from hermes_lb.http.version import NAMES as VERSIONS
from hermes_lb.observe.escaping import NOTHING_CAPTURED
from hermes_lb.proxy import phases
from hermes_lb.proxy.abandoned import Abandoned
from hermes_lb.proxy.first_chunk import timed
from hermes_lb.proxy.learning import LearningBody
from hermes_lb.proxy.local_replies import failure, refusal
from hermes_lb.proxy.phases import FOLLOWED_BY, HAS_PROGRESS
from hermes_lb.proxy.ports import Traffic, TurnRequest
from hermes_lb.proxy.response import Answered, rewritten
from hermes_lb.proxy.resume import EventStream, Resumable, opened_stream
from hermes_lb.proxy.retry import Action, Attempt, decide
from hermes_lb.proxy.select import Seeker
from hermes_lb.proxy.tunnel import Tunnel
from hermes_lb.proxy.upload import Sending, Upload

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from hermes_lb.affinity import Reading, SessionKey
    from hermes_lb.affinity.bodies import BodyReader
    from hermes_lb.backends import Lease, Server
    from hermes_lb.errors import ExchangeFailed, ServerFailed
    from hermes_lb.http import Body, RequestHead, ResponseHead
    from hermes_lb.http.sse import EventsBody
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.learning import Learn
    from hermes_lb.proxy.local_replies import ErrorPages, LocalReply
    from hermes_lb.proxy.policy import Policy
    from hermes_lb.proxy.ports import ConnectionPool, Downstream, ServerSide, TurnGate
    from hermes_lb.proxy.select import Backend
    from hermes_lb.proxy.stream_rules import StreamRules

_NEVER = float("inf")

# Seconds before a server that refused is tried again (HAProxy: min(timeout connect, 1 s)).
_TURN_AROUND = 1.0

_EXPECTATION = b"\r\nExpect: 100-continue\r\n"
_CONTINUE = ResponseParser(1).parse(b"HTTP/1.1 100 Continue\r\n\r\n")


class Exchange(Traffic, Sending, Resumable, Seeker, Answered, TurnRequest):
    """Times are monotonic seconds, -1 for a phase that was not reached; sizes are bytes.

    Its parts see it by the base classes, each of which its part declares.
    """

    __slots__ = (
        # The request.
        "client",
        "peer",
        "context",
        # Which phase, and until when: written by `enter` alone.
        "phase",
        "deadline",
        "limits",  # by phase; those of before a reload stay
        "_taken",  # bytes that both sides had read at the last look
        "head",
        "client_address",
        "request_head",  # as the server gets it; kept until its response begins
        "is_request_read",  # all of the request has been received
        "upload",  # its body, if it has one that did not come at once
        # Where it goes.
        "backend",
        "is_logged",
        "reading",  # of its affinity cookie, if it has one
        "pinned_to",
        "session_key",
        "tried",
        "lease",
        "server",  # the last one that was picked
        "upstream",
        "_pending",  # the look-up of its session, its dial, or the pause before another attempt
        "must_dial",  # a kept connection was found closed: others may be, too
        "passed_over",  # the server that had it, until it has been asked on a fresh one
        "retries",
        "queue_position",
        # The response.
        "status",
        "is_stream",
        "informational_responses",
        "tunnel",
        "rules",  # of its route, for streams
        "policy",  # what its route and its backend have of their own
        "origin",  # of the page whose request it is, where the policy asks for it
        "stream",  # of events, if it has rules
        "turn",  # on a route with turns
        # For the record.
        "started_at",
        "head_at",
        "dispatched_at",
        "connected_at",
        "response_at",
        "response_letter",  # of the affinity cookie, where there is one
        "reason",  # why it was refused or failed, for a person
        "captured",  # fields of the request that its log line shows
    )

    def __init__(self, client: Downstream, head: RequestHead, context: Context, now: float) -> None:
        self.client = client
        self.peer = client.peer
        self.context = context
        self.phase = phases.ROUTE
        self.deadline = _NEVER
        self.saw_traffic = False
        self.limits = context.settings.phase_limits
        self._taken = 0
        self.head = head
        self.client_address = client.peer.address
        self.request_head = b""
        self.is_request_read = head.length == 0
        self.upload: Upload | None = None
        self.backend: Backend | None = None
        self.is_logged = True
        self.reading: Reading | None = None
        self.pinned_to: Server | None = None
        self.session_key: SessionKey | None = None
        self.tried: tuple[Server, ...] = ()
        self.lease: Lease | None = None
        self.server: Server | None = None
        self.upstream: ServerSide | None = None
        self._pending: asyncio.Task[None] | asyncio.TimerHandle | None = None
        self.must_dial = False
        self.passed_over: Server | None = None
        self.retries = 0
        self.queue_position = 0
        self.status = 0
        self.is_stream = False
        self.informational_responses = 0
        self.tunnel: Tunnel | None = None
        self.rules: StreamRules | None = None
        self.policy: Policy | None = None
        self.origin = b""
        self.stream: EventStream | None = None
        self.turn: TurnGate | None = None
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

    # Phase and deadline.

    def enter(self, phase: int, now: float, until: float = _NEVER) -> None:
        """The next phase begins `now`; its deadline is `until` at the latest.

        Raises IllegalTransition if the table does not have it, and changes nothing then.
        """
        if not FOLLOWED_BY[self.phase] >> phase & 1:
            raise phases.IllegalTransition(self.phase, phase)
        self.phase = phase
        deadline = now + self.limits[phase]
        self.deadline = deadline if deadline <= until else until
        self.saw_traffic = False
        if HAS_PROGRESS[phase]:
            self._look_at_progress()

    def sweep(self, now: float) -> None:
        """Look at the deadline; called a few times a second."""
        phase = self.phase
        if self.saw_traffic and phases.IS_IDLE[phase]:
            self.saw_traffic = False
            if HAS_PROGRESS[phase]:
                self._look_at_progress()
        elif self.deadline > now:
            return
        elif not (HAS_PROGRESS[phase] and self._look_at_progress()):
            self._expired()
            return
        self.deadline = now + self.limits[phase]

    def _look_at_progress(self) -> bool:
        """True if a side that has not read everything has read more than at the last look."""
        unsent = self.client.unsent
        if self.upstream is not None:
            unsent += self.upstream.unsent
        before, self._taken = self._taken, self.bytes_in + self.bytes_out - unsent
        return unsent > 0 and self._taken > before

    def _expired(self) -> None:
        """The deadline of the present phase has passed."""
        phase = self.phase
        if phase == phases.QUEUE:
            self.fail(QueueTimeout("every server was full for too long"))
        elif phase == phases.START:
            self.fail(QueueTimeout("no server came up in time"))
        elif phase == phases.DIAL:
            self._cancel_pending()
            self.server_failed(ConnectTimeout("the connection took too long"))
        elif phase in (phases.READ, phases.SEND):
            letters = "c" + self.letter
            self.refuse(RequestRefused(408, "the request body took too long", letters))
        elif phase in (phases.BLOCKED, phases.AWAIT):
            self.server_failed(ResponseTimeout("no response head in time"))
        elif phase == phases.SESSION and self.turn is not None:
            self.turn.session_timed_out()
        else:
            self._silent()

    @property
    def is_over(self) -> bool:
        return self.phase == phases.END

    @property
    def letter(self) -> str:
        """The phase as the log has it."""
        return phases.LETTERS[self.phase]

    @property
    def is_queued(self) -> bool:
        """True while it waits for a free place on a server, or for a server."""
        return phases.QUEUE <= self.phase <= phases.START

    def waited(self) -> float:
        """HAProxy's Tw in seconds: in the queue, and in attempts before. -1: not dispatched."""
        return self.dispatched_at - self.head_at if self.dispatched_at >= 0.0 else -1.0

    @property
    def is_strict(self) -> bool:
        """Only the server that its key is pinned to may serve it."""
        return self.session_key is not None and self.session_key.rule.is_strict

    @property
    def may_keep_client(self) -> bool:
        """True if the client's connection can be kept after a local reply."""
        return self.head.keep_alive and self.is_request_read

    # ROUTE: the request's head is complete.

    def begin(self, data: bytes, ended: bool, now: float) -> None:
        """Dispatch the request, which was admitted. `data` of its body has come, or, if it has
        `ended`, all of it."""
        head, backend = self.head, self.backend
        assert backend is not None
        if head.length and not self._start_upload(head, data, ended):
            return
        if self.turn is not None:
            self.turn.begin(data if self.upload is None else b"", now)
        elif backend.key_rules is None:
            self.dispatch(now)
        else:
            self.proceed(now)

    def proceed(self, now: float) -> None:
        """Find a server for it, by its key if it has one."""
        backend, upload = self.backend, self.upload
        assert backend is not None
        rules = backend.key_rules
        if rules is None or self.pinned_to is not None:
            self.dispatch(now)
        elif (
            upload is not None
            and self.head.length <= MOST_READ
            and rules.needs_body(self.request_head)
        ):
            self._read_body(upload, now)
        else:
            self._stick(self.request_head, now)

    def take_turn(self, turn: TurnGate, client: Downstream) -> None:
        self.turn, self.client = turn, client

    def rewrite(self, request_head: bytes) -> None:
        self.request_head = request_head

    def discard_body(self) -> None:
        if self.upload is not None:
            self.upload.discard()

    def note(self, reason: str) -> None:
        self.reason = reason

    def receive(self, data: bytes) -> None:
        """More of the request's body."""
        assert self.upload is not None
        self.upload.receive(data)
        if self.phase == phases.READ:
            self.saw_traffic = True
            self._look_for_key(self.upload)

    def request_ended(self) -> None:
        """All of the request has been received."""
        assert self.upload is not None
        self.is_request_read = True
        self.upload.ended()
        if self.phase == phases.READ:
            self._look_for_key(self.upload)

    def _start_upload(self, head: RequestHead, data: bytes, ended: bool) -> bool:
        """Take the received part of the body. False: it was refused."""
        limits = self.context.settings if self.policy is None else self.policy
        if head.length == len(data) <= limits.most_for_retry and (
            head.rare is None or not head.rare.expects_continue
        ):
            self.is_request_read = True
            self.request_head += data  # all of it came at once, and a retry needs no more
            return True
        # It arrives in parts, or is too long to be kept.
        self.upload = Upload(self, head, self.context, limits, self.turn)
        if data:
            self.upload.receive(data)
        if ended and not self.is_over:
            self.request_ended()
        return not self.is_over

    # READ: the request's body, which may hold its key.

    def _read_body(self, upload: Upload, now: float) -> None:
        self.enter(phases.READ, now)
        upload.read_json(self.head.length)
        self.ask_for_body()
        self._look_for_key(upload)

    def ask_for_body(self) -> None:
        """In the place of the server, which the body reaches without a question."""
        if self.upload is not None and self.upload.awaits_continue:
            self.request_head = self.request_head.replace(_EXPECTATION, b"\r\n", 1)
            self.bytes_out += self.client.send_informational(_CONTINUE)
            self.upload.continued()

    def _look_for_key(self, upload: Upload) -> None:
        """Go on with the text of the body once it is whole, or without one that is too long."""
        json = upload.json
        assert json is not None
        if self.is_request_read or json.is_too_long:
            upload.end_json()
            self._stick(self.request_head + json.text, self.context.clock())

    def _stick(self, request: bytes, now: float) -> None:
        """The server that its key names, if it has one, takes it."""
        backend = self.backend
        assert backend is not None
        try:
            pin = backend.stick(request, self.client_address, now)
        except NoServer as error:
            self.fail(error)
            return
        self.session_key, self.pinned_to = pin.key, pin.server
        if pin.is_known:
            self.dispatch(now)
        else:
            self._ask_for_pin(backend)

    def _ask_for_pin(self, backend: Backend) -> None:
        """Another balancer may know where this session lives."""
        self.enter(phases.LOOKUP, self.context.clock())
        self._pending = self.context.tasks.spawn(self._pin(backend), name="pin of a session")

    async def _pin(self, backend: Backend) -> None:
        assert self.session_key is not None
        try:
            self.pinned_to = await backend.find_shared(self.session_key)
        except NoServer as error:
            self._pending = None
            self.fail(error)
            return
        self._pending = None
        self.dispatch(self.context.clock())

    # QUEUE, START: a server takes it.

    def dispatch(self, now: float) -> None:
        backend = self.backend
        assert backend is not None
        try:
            lease = backend.choose(self, now)
        except NoServer as error:
            self.fail(error)
            return
        if lease is not None:
            self._connect(backend, lease, now)
            return
        pool, pinned = backend.pool, self.pinned_to
        if pinned is None and backend.must_await_server:
            due = now + backend.wait_for_server if self.phase != phases.START else self.deadline
            self.queue_position = len(pool.starting)
            self.enter(phases.START, now, min(due, self._resume_due()))
            pool.await_server(self)
        else:
            self.queue_position = len(pool.waiting) if pinned is None else pinned.queued
            self.enter(phases.QUEUE, now, self._resume_due())
            if self.stream is not None:
                self.tried = ()  # a server that rests may have room sooner than the others
            pool.wait(self)

    def pin(self, server: Server | None) -> None:
        self.pinned_to = server

    def server_is_up(self) -> None:
        """It has left the queue of those that wait for one (`pool.Starter`)."""
        self.dispatch(self.context.clock())

    def lease_granted(self, lease: Lease) -> None:
        """The queue has given it a lease (`pool.Waiter`)."""
        assert self.backend is not None
        self._connect(self.backend, lease, self.context.clock())

    def server_lost(self, now: float) -> Server | None:
        """The server that it waits for is out (`pool.Waiter`)."""
        assert self.backend is not None
        return self.backend.server_lost(self, now)

    # DIAL: a connection.

    def _connect(self, backend: Backend, lease: Lease, now: float) -> None:
        self.lease = lease
        self.server = server = lease.server
        if self.turn is not None and self.turn.starts(server, now):
            return
        if self.stream is None:
            self.dispatched_at = now
        else:
            self.stream.picked(now)
        connections = backend.connections[server]
        if not self.must_dial:
            idle = connections.take_idle(
                now, fresh_only=not self.head.can_repeat, check_now=self.upload is not None
            )
            if idle is not None:
                self._send(idle, now)
                return
        self.enter(phases.DIAL, now, self._resume_due())
        self._pending = self.context.tasks.spawn(self._dial(connections), name="dial")

    def connect(self, now: float) -> None:
        """Its turn has started."""
        backend, lease = self.backend, self.lease
        assert backend is not None
        assert lease is not None
        self._connect(backend, lease, now)

    async def _dial(self, connections: ConnectionPool) -> None:
        try:
            peers = self._peers() if connections.sends_client_address else None
            connection = await connections.dial(peers, tunnel=bool(self.head.upgrade))
        except ConnectFailed as error:
            self._pending = None
            self.server_failed(error)
            return
        except Exhausted as error:
            self._pending = None
            self.fail(error)
            return
        self._pending = None
        self._send(connection, self.context.clock())

    def _peers(self) -> Peers:
        """The client's connection, for a PROXY header."""
        peer = self.peer
        destination = peer.destination or self.client.local_address()
        return Peers((peer.address, peer.port), destination)

    # SEND, BLOCKED, AWAIT: the request leaves, and its response head is due.

    def _send(self, connection: ServerSide, now: float) -> None:
        self.upstream = connection
        upload = self.upload
        if upload is not None:
            self.connected_at = now
            upload.start(connection, self, self.request_head)
            self.enter(upload.phase, now)
            return
        connection.send_request(self, self.request_head)
        if self.stream is None:
            self.connected_at = now
            self.enter(phases.AWAIT, now)
        else:
            self.enter(phases.AWAIT, now, self.stream.due)

    def not_sent(self) -> None:
        """Another connection to the same server: this one had ended before it was written to."""
        self.upstream = None
        self.connected_at = -1.0
        self.connect(self.context.clock())

    def _resume_due(self) -> float:
        """The limit of a resumed stream's search, which bounds the phases of its attempts."""
        return float("inf") if self.stream is None else self.stream.due

    def server_failed(self, error: ServerFailed) -> None:
        """The server failed before its response head: retry, or give up (`retry.decide`)."""
        now = self.context.clock()
        server, backend = self.server, self.backend
        assert server is not None
        assert backend is not None
        upstream, self.upstream = self.upstream, None
        is_stale = False
        if upstream is None:
            server.counters.connect_errors += 1
        else:
            is_stale = isinstance(error, NotProcessed) or (
                upstream.is_reused and isinstance(error, ClosedBeforeResponse)
            )
            upstream.abort()
        if not is_stale:
            backend.failed(server, now, str(error))
        if self.stream is not None:
            self.stream.attempt_failed(error)
            return
        attempt = Attempt(
            server,
            is_stale,
            can_repeat=self.head.can_repeat,
            is_whole=self.upload is None or not self.upload.is_forgotten,
            is_pinned=self.pinned_to is server,
            is_strict=self.is_strict,
            tried=self.tried,
            passed_over=self.passed_over,
            retries=self.retries,
            most_retries=backend.retries if self.policy is None else self.policy.retries,
        )
        decision = decide(error, attempt, backend.pool, now)
        self.passed_over = decision.passed_over
        if decision.action is Action.FAIL:
            self.fail(backend.given_up(self, error))
            return
        self.retries += 1
        server.counters.retries += 1
        self.must_dial = self.must_dial or is_stale
        self.connected_at = -1.0
        self.let_go_of_server()
        if decision.action is Action.PAUSE:
            delay = min(self.limits[phases.DIAL], _TURN_AROUND)
            self.pause(delay, self._turned_around, now)
            return
        if decision.action is Action.OTHER:
            self.pinned_to = None
            self.tried = decision.tried
        self.dispatch(now)

    def pause(self, seconds: float, then: Callable[[], None], now: float) -> None:
        self.enter(phases.PAUSE, now)
        self._pending = self.context.loop.call_later(seconds, then)

    def _turned_around(self) -> None:
        self._pending = None
        self.dispatch(self.context.clock())

    def fail(self, error: ExchangeFailed) -> None:
        """No server will answer it."""
        if self.stream is not None:
            self.stream.attempt_failed(error)
        else:
            self.reason = str(error)
            reply = failure(error, self._pages, is_head=self.head.method == b"HEAD")
            self.reply(reply, error.termination, may_keep=self.may_keep_client)

    def refuse(self, error: RequestRefused) -> None:
        """The request is not accepted.

        The connection closes, except for a client that may ask the same again later.
        """
        self.peer.frontend.counters.refuse(error.status, error.reason)
        self.reason = error.reason
        reply = refusal(error, self._pages, is_head=self.head.method == b"HEAD")
        may_keep = bool(error.retry_after) and self.may_keep_client
        self.reply(reply, error.termination, may_keep=may_keep)

    @property
    def _pages(self) -> ErrorPages:
        settings = self.context.settings
        return settings.error_pages if self.policy is None else self.policy.error_pages

    def reply(self, reply: LocalReply, termination: str, *, may_keep: bool) -> None:
        """End with a response of our own; no byte of another one has been sent."""
        client, now = self.client, self.context.clock()
        is_read = self.is_request_read
        self.status = reply.status
        if self.policy is not None:
            fields = self.policy.response_fields(reply.fields, self, self.origin)
            reply = reply._replace(fields=fields)
        self.bytes_out += client.reply(reply, may_keep=may_keep)
        self.finish(termination, now)
        client.done(now, is_read)

    # The response's head.

    def informational(self, head: ResponseHead) -> bool:
        self.informational_responses += 1
        if self.informational_responses > INFORMATIONAL_RESPONSES:
            self.server_failed(BadResponse("too many informational responses"))
            return False
        self.head.can_repeat = False  # the server is at work, and the client knows
        if self.upload is not None and head.status == 100:
            self.upload.continued()
        if self.stream is None:  # or it is within its response
            self.bytes_out += self.client.send_informational(head)
        return True

    def response_head(self, upstream: ServerSide, head: ResponseHead, rest: bytes) -> None:
        if self.stream is not None:  # the rest of a response that has begun
            self.stream.response_head(upstream, head, rest)
            return
        request, upload = self.head, self.upload
        self.status = status = head.status
        if status == 101 and not (request.upgrade and head.upgrade.lower() == request.upgrade):
            self.server_failed(BadResponse("101 without having been asked to switch protocols"))
            return
        now = self.context.clock()
        backend, server = self.backend, self.server
        assert backend is not None and server is not None  # noqa: PT018 - both were chosen long ago
        if self.response_at < 0.0:
            self.response_at = now
            if backend.key_rules is not None:
                news = backend.learn(self.session_key, server, head, now)
                if news is not None:
                    request.can_repeat = False  # it has executed it
                    self.enter(phases.HELD, now)
                    upstream.hold(news)
                    return
        if self.turn is not None and self.turn.holds(upstream, head, now):
            return
        if self.rules is not None:
            self.stream = opened_stream(self, self.rules, backend.pool, head)
        self.request_head = b""
        if upload is not None:
            upload.forget()
        if server.fails or backend.observes:
            backend.answered(server, head, self.response_at - self.dispatched_at, now)
        fields = head.forwarded
        if backend.affinity is not None or self.peer.frontend.hsts:
            fields, self.response_letter = rewritten(self, head, backend.affinity, server, now)
        if not head.has_date and status >= 200:
            fields += self.context.wall_clock.date(now)  # RFC 9110 section 6.6.1
        if self.policy is not None:
            fields = self.policy.response_fields(fields, self, self.origin)
        length = head.body_length(request.method)
        reader = None
        if backend.key_rules is not None and length:
            is_chunked = length < 0 and self.client.takes_chunks
            reader = backend.key_rules.reader(head, is_chunked=is_chunked)
        keeps = request.keep_alive and self.is_request_read
        if status == 101:
            self.enter(phases.TUNNEL, now)
            self.is_stream = True
            self.bytes_out += self.client.send_head(head, fields, length, keeps, b"")
            self._open_tunnel(upstream, rest)
            return
        if length == len(rest) and reader is None:  # the common case: all of it came at once
            self.bytes_out += self.client.send_head(head, fields, length, keeps, rest)
            said = head.length
            is_clean = length == said or (said == UNTIL_CLOSE and request.method != b"HEAD")
            self._complete(upstream, now, is_clean)
            return
        body = self._begin_body(upstream, head, length, reader, now)
        problem, first = "", b""
        if rest:
            try:
                first = body.feed(rest)
            except InvalidBody as error:
                problem = str(error)
        self.bytes_out += self.client.send_head(head, fields, length, keeps, first)
        if problem:
            self._lose_server(problem)
        elif body.is_done:
            self._body_done(upstream, body, now)

    def _begin_body(
        self,
        upstream: ServerSide,
        head: ResponseHead,
        length: int,
        reader: BodyReader | None,
        now: float,
    ) -> Body:
        """The body of the response comes, in parts; `reader` finds keys in it."""
        if not self.is_request_read and head.status >= 300:
            self.client.refuse_rest()
        self.is_stream = length < 0 and head.is_event_stream
        body: Body
        body = self.client.body_for(head, length) if self.stream is None else self.stream.body
        if reader is not None:
            body = LearningBody(body, reader, self._learner(), upstream)
        if self.is_stream:
            body = self._timed(upstream, body)
        self._start_data(upstream, body, now)
        return body

    def _timed(self, upstream: ServerSide, body: Body) -> Body:
        """With spans: notes the time of the first chunk."""
        if self.context.log.recorder.spans is None:
            return body
        return timed(self.head.trace_id, body, upstream, self.context.clock, self.started_at)

    def _learner(self) -> Learn:
        """Stores keys in the body for the server. Without the exchange, which it would keep."""
        backend, server, clock = self.backend, self.server, self.context.clock
        assert backend is not None and server is not None  # noqa: PT018 - as above
        return lambda keys: backend.assign(keys, server, clock())

    def turn_events(self, length: int, after: bytes, path: bytes) -> EventsBody | None:
        return None if self.turn is None else self.turn.events(length, after, path)

    def another(self, head: RequestHead, rules: StreamRules) -> Exchange:
        self.peer.frontend.counters.requests += 1
        made = Exchange(self.client, head, self.context, self.context.clock())
        made.backend, made.is_logged, made.rules = self.backend, self.is_logged, rules
        made.policy, made.origin, made.limits = self.policy, self.origin, self.limits
        made.client_address, made.request_head = self.client_address, self.request_head
        return made

    def continue_stream(self, path: bytes, after: bytes) -> None:
        backend, rules = self.backend, self.rules
        assert backend is not None and rules is not None  # noqa: PT018 - as above
        self.status, self.is_stream = 200, True
        self.stream = EventStream(self, rules, backend.pool, UNTIL_CLOSE, path, after)
        self.stream.search("its balancer has left it")

    def lead_to(self, backend: Backend) -> None:
        self.backend = backend

    def replay(self, upstream: ServerSide, head: ResponseHead, server: str, first: bytes) -> None:
        """The response of a turn: its stored head, and what `upstream` reads of its journal."""
        now, request, backend = self.context.clock(), self.head, self.backend
        assert backend is not None
        self.upstream = upstream
        self.status, self.response_at = head.status, now
        fields, named = head.forwarded, backend.server_named(server)
        if named is not None:
            fields, self.response_letter = rewritten(self, head, backend.affinity, named, now)
        if self.policy is not None:
            fields = self.policy.response_fields(fields, self, self.origin, again=True)
        length = head.body_length(request.method)
        body = self._begin_body(upstream, head, length, None, now)
        keeps = request.keep_alive and self.is_request_read
        first = body.feed(first) if first else b""
        self.bytes_out += self.client.send_head(head, fields, length, keeps, first)
        if body.is_done:
            self._complete(upstream, now, False)

    def count_turn(self, outcome: int) -> None:
        backend, server = self.backend, self.server
        assert backend is not None
        counters = backend.pool.unserved if server is None else server.counters
        counters.turn_outcomes[outcome] += 1

    def _start_data(self, upstream: ServerSide, body: Body, now: float) -> None:
        """The body of the response comes from `upstream`, until it is done."""
        upstream.expect(body)
        if self.client.is_writing_paused:
            upstream.pause_reading()
            self.enter(phases.DATA_SLOW, now)
        else:
            self.enter(phases.DATA, now)

    # DATA: the response's body.

    def response_data(self, upstream: ServerSide, body: Body, data: bytes) -> None:
        """A chunk from the server leaves for the client: the path of every token."""
        try:
            passed = body.feed(data)
        except InvalidBody as problem:
            self._lose_server(str(problem))
            return
        self.saw_traffic = True
        self.bytes_out += len(passed)
        self.client.send_data(passed)
        if body.is_done:
            self._body_done(upstream, body, self.context.clock())

    def response_ended(self, body: Body, error: Exception | None) -> None:
        """The server's connection has gone; that may be the end of the body, or cut it."""
        upstream, self.upstream = self.upstream, None
        assert upstream is not None
        try:
            is_whole = self.stream is not None and self.stream.body.has_ended
            if error is not None and not is_whole:
                raise InvalidBody(str(error))
            last = body.end()
        except InvalidBody as problem:
            self._lose_server(str(problem))
            return
        self.bytes_out += len(last)
        self.client.send(last)
        self._complete(upstream, self.context.clock(), False)

    def _body_done(self, upstream: ServerSide, body: Body, now: float) -> None:
        if self.stream is not None and self.stream.body.is_handed_over:
            self._lose_server("it has handed over", "handed_over")
        else:
            self._complete(upstream, now, not body.excess)

    def _lose_server(self, reason: str, outcome: str = "resumed") -> None:
        """The server's part of the response has ended before the response did."""
        if self.stream is None or not self.stream.server_lost(reason, outcome):
            self.abort_client("SD", reason)

    def let_go_of_server(self, output: int = -1) -> None:
        """Release the lease and the connection of the present server; `output` as in
        `Lease.release`."""
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.abort()
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release(output)

    def note_traffic(self) -> None:
        self.saw_traffic = True

    # The search for a server that continues a stream (`resume`).

    def lose_server(self) -> None:
        self.let_go_of_server()
        self.upload = None
        self.pinned_to = None

    def end_attempt(self, now: float) -> None:
        self.stop_waiting(now)
        self.enter(phases.PAUSE, now)  # it must not leave the queue twice
        self.lose_server()

    def ask_next(
        self, request_head: bytes, tried: tuple[Server, ...], *, must_dial: bool, now: float
    ) -> None:
        self._pending = None
        self.head.can_repeat = True  # it has become a GET
        self.informational_responses = 0
        self.must_dial = must_dial
        self.tried = tried
        self.request_head = request_head
        self.dispatch(now)

    def insert(self, comment: bytes) -> None:
        self.bytes_out += len(comment)
        self.client.send(comment)

    def go_on(self, upstream: ServerSide, body: Body, rest: bytes, reason: str) -> None:
        self.reason = reason
        self.request_head = b""
        body = self._timed(upstream, body)
        self._start_data(upstream, body, self.context.clock())
        if rest:
            self.response_data(upstream, body, rest)

    def client_is_slow(self) -> None:
        """The client's write buffer is above its high-water mark: hold the server back.

        Before the body there is little to hold back, and the server's timeout runs.
        """
        if self.turn is not None and self.turn.client_is_slow():
            return
        if self.phase == phases.DATA and self.upstream is not None:
            self.upstream.pause_reading()
            self.enter(phases.DATA_SLOW, self.context.clock())

    def client_caught_up(self) -> None:
        """The write buffer has drained."""
        if self.turn is not None:
            self.turn.client_caught_up()
        if self.phase == phases.FLUSH:
            now, is_read = self.context.clock(), self.is_request_read
            self.finish("--", now)
            self.client.done(now, is_read)
        elif self.phase == phases.DATA_SLOW and self.upstream is not None:
            self.upstream.resume_reading()
            self.enter(phases.DATA, self.context.clock())

    def server_is_slow(self) -> None:
        """The server's write buffer is above its high-water mark: hold the client back."""
        self.client.pause_reading()
        if self.phase == phases.SEND:
            self.enter(phases.BLOCKED, self.context.clock())

    def server_caught_up(self) -> None:
        """The write buffer has drained."""
        self.client.resume_reading()
        if self.phase == phases.BLOCKED:
            self.enter(phases.SEND, self.context.clock())

    # FLUSH: the last bytes.

    def _complete(self, upstream: ServerSide, now: float, is_clean: bool) -> None:
        """The server is done. `is_clean`: its connection can serve another request.

        It can't after a body that was announced and must not be sent (HEAD, 304): it may arrive
        late, and would then be the next client's response.
        """
        self.upstream = None
        client = self.client
        is_read = self.is_request_read
        upstream.give_back(now, is_clean)
        if client.is_writing_paused:
            # A client that has much to read yet is waited for, and holds the lease. Up to the
            # high-water mark the rest leaves without us: to wait for it would cost each request.
            self.enter(phases.FLUSH, now)
        else:
            self.finish("--", now)
            client.done(now, is_read)

    def abort_client(self, termination: str, reason: str = "") -> None:
        """Cut the response in a way that the client can see: never by a clean end."""
        # A stream has noted how often it was resumed.
        self.reason = "; ".join(filter(None, (self.reason, reason)))
        self.finish(termination, self.context.clock())
        self.client.cut_off(termination)

    def _silent(self) -> None:
        """Silence for too long after the response head."""
        if self.phase == phases.FLUSH or self.client.is_writing_paused:
            self.abort_client("c" + self.letter)
        elif self.stream is None or not self.stream.server_lost("it was silent for too long"):
            self.abort_client("sD")

    # TUNNEL: after a 101.

    def _open_tunnel(self, upstream: ServerSide, rest: bytes) -> None:
        self.tunnel = Tunnel(self.client, upstream, self, self.context, self._tunnel_ended)
        self.tunnel.start(from_server=rest)

    def _tunnel_ended(self, termination: str) -> None:
        self.upstream = None
        self.finish(termination, self.context.clock())

    # Leaving.

    def client_left(self) -> None:
        """The client's connection has ended: so does the work for it, at once."""
        if self.is_over or (self.turn is not None and self.turn.client_left()):
            return
        if self.rules is not None and self.rules.on_disconnect != "abort":
            self._detach(self.rules)
        self.abort_client("C" + self.letter)

    def _detach(self, rules: StreamRules) -> None:
        """Let the server finish the response, if it has the whole request."""
        upstream, lease = self.upstream, self.lease
        may_finish = phases.SEND <= self.phase <= phases.DATA_SLOW and self.is_request_read
        if may_finish and upstream is not None and lease is not None:
            self.upstream = self.lease = None
            limit = rules.disconnect_timeout if rules.on_disconnect == "drain" else None
            about = self.describe(self.context.clock())
            silence = self.limits[phases.DATA]
            Abandoned(self.context, upstream, lease, self.head.method, silence, limit, about)

    def shut_down(self) -> None:
        """The balancer ends before this exchange does."""
        if not self.is_over:
            self.abort_client("K" + self.letter)

    def server_marked_down(self, reason: str) -> None:
        """Health checks have marked its server down (`moving`): retry the request, or cut it."""
        if self.tunnel is not None:
            self.reason = reason
            self.tunnel.close("DD")
        elif self.phase in (phases.DATA, phases.DATA_SLOW):
            self.abort_client("DD", reason)
        else:
            self._cancel_pending()
            self.server_failed(MarkedDown(reason))

    def _cancel_pending(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    def refuse_body(self, error: InvalidBody | RequestRefused) -> None:
        """The request's body broke its framing, or is larger than it may be."""
        status = error.status if isinstance(error, RequestRefused) else 400
        refused = RequestRefused(status, str(error), "PR" if self.phase <= phases.READ else "PD")
        if self.phase in (phases.DATA, phases.DATA_SLOW):
            self.peer.frontend.counters.refuse(status, refused.reason)
            self.abort_client("PD", refused.reason)
        elif self.phase == phases.FLUSH:  # the whole response has been written already
            self.client.refuse_rest()
        else:
            self.refuse(refused)

    # The end.

    def finish(self, termination: str, now: float) -> None:
        """The one end: whatever is still held is given back, and the exchange is recorded."""
        if not phases.SEND <= self.phase <= phases.FLUSH:  # the common ones
            self.stop_waiting(now)
        self.enter(phases.END, now)
        # Each refers to the exchange. A cycle would outlive it until the next garbage collection.
        self.upload = self.tunnel = None
        if self.stream is not None:
            self.stream.stop(termination)
        is_whole = termination == "--" and self.status < 400
        self.let_go_of_server(self.bytes_out if is_whole else -1)
        self.context.batch.exchange_ended(self, now, termination)

    def stop_waiting(self, now: float) -> None:
        if self.is_queued:
            assert self.backend is not None
            if self.phase == phases.QUEUE:
                self.backend.pool.leave(self)
            else:
                self.backend.pool.leave_start(self)
            if self.stream is None:  # for the log: it left the queue without a server
                self.dispatched_at = now
        elif phases.LOOKUP <= self.phase <= phases.PAUSE:
            self._cancel_pending()
        elif self.tunnel is not None:
            self.tunnel.detach()

    # For the operator, and for checks that time out.

    @property
    def progress(self) -> tuple[float, int]:
        said = 0 if self.stream is None else self.stream.said
        return self.head_at, self.bytes_out - said

    def describe(self, now: float) -> dict[str, Any]:
        head, server, backend = self.head, self.server, self.backend
        by = None
        if self.pinned_to is not None:
            by = "cookie" if self.session_key is None else "stick"
        is_tunnel = self.tunnel is not None
        row = {
            "client": self.peer.log_name,
            "frontend": self.peer.frontend.name,
            "backend": backend.name if backend is not None else "",
            "server": server.name if server is not None else None,
            "kind": "tunnel" if is_tunnel else "stream" if self.is_stream else "request",
            "phase": self.letter,
            "began": self.head_at,
            "seconds": round(now - self.head_at, 3),
            "method": head.method.decode("latin-1"),
            "target": head.target.partition(b"?")[0].decode("latin-1"),
            "version": VERSIONS[head.version],
            "stream": head.stream or None,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "pinned_by": by,
        }
        return row if self.turn is None else self.turn.describe(row)
