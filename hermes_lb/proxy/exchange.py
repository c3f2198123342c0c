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
from hermes_lb.proxy import local_replies
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
        if backend.key_rules is not None and self.pinned_to is None:
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
        self.phase = "C"
        self.client.deadline = float("inf")  # it has its own
        self.dialing = self.context.tasks.spawn(self._pin(backend), name="pin of a session")

    async def _pin(self, backend: Backend) -> None:
        assert self.session_key is not None
        try:
            self.pinned_to = await backend.find_shared(self.session_key)
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
            self.phase = "Q"
            self.client.deadline = now + self.context.timeouts.queue
            self.client.has_moved = False
            if self.stream is not None:
                self.stream.bound()
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
        self.phase = "C"
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
        self.client.deadline = now + self.context.timeouts.connect
        self.client.has_moved = False
        if self.stream is not None:
            self.stream.bound()
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
        self.phase = "H"
        self.upstream = connection
        client = self.client
        client.has_moved = False
        timeouts = self.context.timeouts
        upload = self.upload
        if upload is None:
            connection.send_request(self, self.request_head)
            client.deadline = now + timeouts.server
            if self.stream is None:
                self.connected_at = now
            else:
                self.stream.bound()
            return
        self.connected_at = now
        client.idle_timeout = timeouts.client
        upload.start(connection, self.request_head)
        client.deadline = now + (timeouts.server if upload.awaits_server else timeouts.client)

    # Deadlines, and leaving.

    def expired(self, now: float) -> None:
        """The deadline of the present phase has passed (called by the sweep)."""
        phase = self.phase
        if phase == "Q":
            self.fail(QueueTimeout("every server was full for too long"))
        elif phase == "C":
            self._stop_dialing()
            self.server_failed(ConnectTimeout("the connection took too long"))
        elif phase == "H":
            if self.upload is None or self.upload.awaits_server:
                self.server_failed(ResponseTimeout("no response head in time"))
            else:
                local_replies.refuse(
                    self, RequestRefused(408, "the request body took too long", "cH")
                )
        else:
            self.relay_expired()

    def client_left(self) -> None:
        """The client's connection has ended: so does the work for it, at once."""
        if self.is_over:
            return
        if self.rules is not None and self.rules.on_disconnect != "abort":
            self._detach(self.rules)
        if self.phase in "DLT":
            self.abort_client("C" + self.letter)
        else:
            self.client.exchange = None
            self.finish("C" + self.letter, self.context.clock())

    def _detach(self, rules: StreamRules) -> None:
        """The server shall finish what it has begun, if it has got the whole request."""
        upstream, lease = self.upstream, self.lease
        may_finish = self.phase in "HD" and self.is_request_read
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
        refused = RequestRefused(status, str(error), "PR" if self.phase == "R" else "PD")
        if self.phase == "D":
            self.client.frontend.counters.refuse(status, refused.reason)
            self.abort_client("PD", refused.reason)
        elif self.phase == "L":  # the whole response is on its way already
            assert self.upload is not None
            self.upload.stop()
        else:
            local_replies.refuse(self, refused)

    # The end.

    def finish(self, termination: str, now: float) -> None:
        """The one end: whatever is still held is given back, and the exchange is recorded."""
        if self.is_over:
            raise RuntimeError(f"{self!r} has ended twice")
        self.is_over = True
        if self.phase != "D" and self.phase != "H":  # the common ones
            self.stop_waiting()
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

    def stop_waiting(self) -> None:
        if self.phase == "Q":
            assert self.backend is not None
            self.backend.pool.leave(self)
        elif self.phase == "C":
            self._stop_dialing()
        elif self.tunnel is not None:
            self.tunnel.detach()
