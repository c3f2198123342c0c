"""One request and its response: the way up to the server, and the one end of every path.

`retries.py` has what may fail on the way, `relay.py` the way back, `state.py` what is known.

The phases have HAProxy's letters: Q queue, C connect, H response head, D data, L last bytes, and
T for a tunnel. `finish` is called exactly once, from whichever phase: it gives the lease back and
records the exchange.

Nothing is awaited on the common path: `begin` routes, picks and writes to an idle connection in one
go. Every method runs to its end in one turn of the event loop, so between two of them anything may
have happened, and within one of them nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.backends.dialing import Peers
from hermes_lb.errors import (
    ConnectFailed,
    ConnectTimeout,
    Exhausted,
    InvalidBody,
    NoServer,
    QueueTimeout,
    RequestRefused,
    ResponseTimeout,
)
from hermes_lb.http import build_request, trusted_identity_fields
from hermes_lb.http.trace_context import start_trace
from hermes_lb.observe.escaping import capture
from hermes_lb.proxy import local_replies, phases
from hermes_lb.proxy.abandoned import Detached
from hermes_lb.proxy.inflight import describe
from hermes_lb.proxy.relay import Relay
from hermes_lb.proxy.resume import ACCEPTS_HANDOVER, gets_chunks
from hermes_lb.proxy.retry import Retries
from hermes_lb.proxy.upload import Upload
from hermes_lb.tls.client_certificate import tells_of_certificate
from hermes_lb.transport.addresses import plain_address

if TYPE_CHECKING:
    from hermes_lb.affinity import CookieAffinity
    from hermes_lb.backends import Lease, Server
    from hermes_lb.http import RequestHead
    from hermes_lb.proxy.http1.connection_pool import ServerConnections
    from hermes_lb.proxy.http1.upstream import UpstreamConnection
    from hermes_lb.proxy.resume import StreamRules
    from hermes_lb.proxy.select import Backend


class Exchange(Retries, Relay):
    """The way up to the server, and the end; `Relay` has the way back, `Retries` what may fail."""

    __slots__ = ()

    # R: the request head has come.

    def begin(self, head: RequestHead, rest: bytes, now: float) -> None:
        """Route and dispatch the request; `rest` is what has come of its body, and, if that is
        chunked, what is behind it. Raises RequestRefused."""
        client, context, rare = self.client, self.context, head.rare
        if context.recorder.captures:
            self.captured = capture(head.forwarded)
        if client.frontend.redirect is not None and not local_replies.came_by_tls(self):
            local_replies.redirect(self, client.frontend.redirect)
            return
        if (destination := client.frontend.router.route(head.host_name, head.target)) is None:
            raise RequestRefused(404, "nothing is served here")
        if rare is not None and client.frontend.pseudonym in b",".join(rare.via):
            raise RequestRefused(508, "this request has been here before")
        self.backend, self.is_logged, self.rules = destination
        if head.method == b"TRACE" and not client.frontend.allows_trace:
            raise RequestRefused(405, "TRACE is not served")
        if head.length > context.most_in_body:
            raise RequestRefused(413, "the request body is too large")
        backend = self.backend
        if head.cookies is not None and backend.affinity is not None:
            self._read_cookie(backend.affinity, head, head.cookies)
        identity, forwarded_host = client.identity, head.host
        if client.is_trusted:
            identity, forwarded_host = self._identity_from_proxy(head)
        rates = context.request_rates
        if rates is not None and (wait := rates.came(self.client_address, now)):
            raise RequestRefused(429, "too many requests from this address", retry_after=wait)
        if not head.request_id:
            head.request_id = context.new_request_id()
        if not head.trace_id and context.recorder.makes_traces:
            start_trace(head, context.rng)
        host, via = head.host or backend.host, client.frontend.via[head.minor_version]
        self.request_head = build_request(head, host, identity, forwarded_host, via)
        if self.rules is not None and self.rules.resumes and gets_chunks(head):
            self.request_head = self.request_head[:-2] + ACCEPTS_HANDOVER + b"\r\n"
        head.forwarded = b""  # a stream lasts for minutes, and needs it no more
        if rare is not None and rare.hops_left == 0:
            local_replies.as_final_recipient(self)
            return
        if (
            head.length
            and head.length == len(rest) <= context.most_for_retry
            and (rare is None or not rare.expects_continue)
        ):
            self.request_head += rest  # all of it came at once, and a retry needs no more
            self.bytes_in = len(rest)
        elif head.length and not self._start_upload(head, rest):
            return
        if backend.sticks is not None and self.pinned_to is None:
            self._stick(backend, now)
        else:
            self.dispatch(now)

    def receive(self, data: bytes) -> None:
        """More bytes from the client: of this request's body, or of what comes behind it."""
        if self.upload is not None:
            self.upload.receive(data)
        else:
            self.client.hold(data)

    def _read_cookie(
        self, affinity: CookieAffinity, head: RequestHead, cookies: list[bytes]
    ) -> None:
        self.cookie, head.cookies = affinity.extract(cookies)
        if self.cookie is None:
            return
        if affinity.has_dates:
            self.reading = affinity.read(self.cookie, self.context.seconds_since_1970())
            self.pinned_to = self.reading.server
        else:
            self.pinned_to = affinity.server_for(self.cookie)

    def _identity_from_proxy(self, head: RequestHead) -> tuple[bytes, bytes]:
        """The client's identity and host, as the trusted proxy before us tells them."""
        client = self.client
        if head.rare is not None:
            self.client_address = client.frontend.real_client(
                head.rare.forwarded_for, client.address
            )
        identity, host = trusted_identity_fields(
            head, client.address, self.client_address, client.via.scheme
        )
        if client.certificate and not (head.rare and tells_of_certificate(head.rare)):
            identity = client.certificate + identity
        return identity, host

    def _start_upload(self, head: RequestHead, rest: bytes) -> bool:
        """A body that comes in parts, or is too long to be kept. False: it was refused."""
        self.upload = Upload(self, head)
        if rest:
            self.upload.receive(rest)
        return not self.is_over

    def _stick(self, backend: Backend, now: float) -> None:
        """The server that its key names, if it has one, takes it."""
        try:
            is_known = backend.stick(self, now)
        except NoServer as error:
            self.fail(error)
            return
        if is_known:
            self.dispatch(now)
        else:
            self._ask_for_pin(backend)

    def _ask_for_pin(self, backend: Backend) -> None:
        """Another balancer may know where this session lives."""
        self.enter(phases.LOOKUP, self.context.clock())
        self.dialing = self.context.tasks.spawn(self._pin(backend), name="pin of a session")

    async def _pin(self, backend: Backend) -> None:
        assert self.stuck is not None
        try:
            self.pinned_to = await backend.find_shared(self.stuck)
        except NoServer as error:
            self.dialing = None
            self.fail(error)
            return
        self.dialing = None
        self.dispatch(self.context.clock())

    # Q: who takes it?

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
        else:
            self.enter(phases.QUEUE, now, self._resume_due())
            if self.stream is not None:
                self.tried = ()  # a server that rests may have room sooner than the others
            backend.pool.wait(self)

    def lease_granted(self, lease: Lease) -> None:
        """Its turn in the queue has come (`pool.Waiter`)."""
        assert self.backend is not None
        self._connect(self.backend, lease, self.context.clock())

    def server_lost(self, now: float) -> Server | None:
        """The server that it waits for is out (`pool.Waiter`)."""
        assert self.backend is not None
        return self.backend.server_lost(self, now)

    # C: a connection.

    def _connect(self, backend: Backend, lease: Lease, now: float) -> None:
        self.lease = lease
        self.server = server = lease.server
        if self.stream is None:
            self.dispatched_at = now
        else:
            self.stream.picked(now)
        connections = backend.connections[server]
        if not self.must_dial:
            idle = connections.take_idle(now, fresh_only=not self.head.can_repeat)
            if idle is not None:
                self._send(idle, now)
                return
        self.enter(phases.DIAL, now, self._resume_due())
        self.dialing = self.context.tasks.spawn(self._dial(connections), name="dial")

    async def _dial(self, connections: ServerConnections) -> None:
        try:
            peers = self._peers() if connections.tells_client else None
            connection = await connections.dial(peers)
        except ConnectFailed as error:
            self.dialing = None
            self.server_failed(error)
            return
        except Exhausted as error:
            self.dialing = None
            self.fail(error)
            return
        self.dialing = None
        self._send(connection, self.context.clock())

    def _peers(self) -> Peers:
        """The client's connection, as one PROXY header tells it to the next."""
        client = self.client
        here = client.destination or client.transport.get_extra_info("sockname")
        destination = (plain_address(here[0]), here[1]) if isinstance(here, tuple) else ("", 0)
        return Peers((client.address, client.port), destination)

    # H: the request leaves; its response head is awaited.

    def _send(self, connection: UpstreamConnection, now: float) -> None:
        self.upstream = connection
        upload = self.upload
        if upload is not None:
            self.connected_at = now
            upload.start(connection, self.request_head)
            self.enter(upload.phase, now)
            return
        connection.send_request(self, self.request_head)
        if self.stream is None:
            self.connected_at = now
            self.enter(phases.AWAIT, now)
        else:
            self.enter(phases.AWAIT, now, self.stream.due)

    def _resume_due(self) -> float:
        """The limit of a resumed stream's search, which bounds the phases of its attempts."""
        return float("inf") if self.stream is None else self.stream.due

    # Deadlines, and leaving.

    def sweep(self, now: float) -> None:
        """Look at the deadline; called a few times a second."""
        phase = self.phase
        if self.saw_traffic and phases.IS_IDLE[phase]:
            self.saw_traffic = False
            if phases.HAS_PROGRESS[phase]:
                self._taken = self.bytes_taken()
        elif self.deadline > now:
            return
        elif not (phases.HAS_PROGRESS[phase] and self._made_progress()):
            self._expired()
            return
        self.deadline = now + self.limits[phase]

    def _made_progress(self) -> bool:
        """True if either side has read some of what it had not at the last look."""
        before, self._taken = self._taken, self.bytes_taken()
        return self._taken > before

    def _expired(self) -> None:
        """The deadline of the present phase has passed."""
        phase = self.phase
        if phase == phases.QUEUE:
            self.fail(QueueTimeout("every server was full for too long"))
        elif phase == phases.DIAL:
            self._stop_dialing()
            self.server_failed(ConnectTimeout("the connection took too long"))
        elif phase == phases.SEND:
            refused = RequestRefused(408, "the request body took too long", "cH")
            local_replies.refuse(self, refused)
        elif phase in (phases.BLOCKED, phases.AWAIT):
            self.server_failed(ResponseTimeout("no response head in time"))
        else:
            self.relay_expired()

    def client_left(self) -> None:
        """The client's connection has ended: so does the work for it, at once."""
        if self.is_over:
            return
        if self.rules is not None and self.rules.on_disconnect != "abort":
            self._detach(self.rules)
        if self.phase >= phases.DATA:
            self.abort_client("C" + self.letter)
        else:
            self.client.exchange = None
            self.finish("C" + self.letter, self.context.clock())

    def _detach(self, rules: StreamRules) -> None:
        """The server shall finish what it has begun, if it has got the whole request."""
        upstream, lease = self.upstream, self.lease
        may_finish = phases.SEND <= self.phase <= phases.DATA_SLOW and self.is_request_read
        if may_finish and upstream is not None and lease is not None:
            self.upstream = self.lease = None
            limit = rules.disconnect_timeout if rules.on_disconnect == "drain" else None
            about = describe(self, self.context.clock())
            Detached(self.context, upstream, lease, self.head.method, limit, about)

    def shut_down(self) -> None:
        """The balancer ends before this exchange does."""
        if not self.is_over:
            self.abort_client("K" + self.letter)

    def _stop_dialing(self) -> None:
        if self.dialing is not None:
            self.dialing.cancel()
            self.dialing = None
        if self.turn_around is not None:
            self.turn_around.cancel()
            self.turn_around = None

    def refuse_body(self, error: InvalidBody | RequestRefused) -> None:
        """The request's body broke its framing, or is larger than it may be."""
        status = error.status if isinstance(error, RequestRefused) else 400
        refused = RequestRefused(status, str(error), "PR" if self.phase == phases.ROUTE else "PD")
        if self.phase in (phases.DATA, phases.DATA_SLOW):
            self.client.frontend.counters.refuse(status, refused.reason)
            self.abort_client("PD", refused.reason)
        elif self.phase == phases.FLUSH:  # the whole response is on its way already
            assert self.upload is not None
            self.upload.stop()
        else:
            local_replies.refuse(self, refused)

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
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.abort()
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()
        self.context.turn.exchange_ended(self, now, termination)

    def stop_waiting(self, now: float) -> None:
        if self.phase == phases.QUEUE:
            assert self.backend is not None
            self.backend.pool.leave(self)
            if self.stream is None:  # in vain
                self.dispatched_at = now
        elif self.phase in (phases.LOOKUP, phases.DIAL, phases.PAUSE):
            self._stop_dialing()
        elif self.tunnel is not None:
            self.tunnel.detach()
