"""One request and its response: phases, attempts, and the one end that every path leads to.

The phases have HAProxy's letters: Q queue, C connect, H response head, D data, L last bytes, and
T for a tunnel. `finish` is called exactly once, from whichever phase: it gives the lease back and
records the exchange.

Nothing is awaited on the common path: `begin` parses, picks and writes to an idle connection in one
go. Every method runs to its end in one turn of the event loop, so between two of them anything may
have happened, and within one of them nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.errors import (
    ClosedBeforeResponse,
    ConnectFailed,
    ConnectTimeout,
    ExchangeFailed,
    Exhausted,
    InvalidBody,
    NoServer,
    QueueTimeout,
    RequestRefused,
    ResponseTimeout,
    Retry,
    ServerFailed,
)
from hermes_lb.http1 import build_request, trusted_identity_fields
from hermes_lb.proxy.detached import Detached
from hermes_lb.proxy.relay import Relay
from hermes_lb.proxy.responses import failure, final_recipient, refusal
from hermes_lb.proxy.stream import ACCEPTS_HANDOVER
from hermes_lb.proxy.upload import Upload

if TYPE_CHECKING:
    from hermes_lb.affinity import CookieAffinity
    from hermes_lb.http1 import RequestHead
    from hermes_lb.pool import Lease, Server
    from hermes_lb.proxy.connections import ServerConnections
    from hermes_lb.proxy.dispatch import Backend
    from hermes_lb.proxy.stream import StreamRules
    from hermes_lb.proxy.upstream import UpstreamConnection

# Seconds before the same server is tried again (HAProxy: min(timeout connect, 1 s)).
_TURN_AROUND = 1.0


class Exchange(Relay):
    """The part up to the response head; `Relay` has the rest of the way."""

    __slots__ = ()

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

    # R: the request head has come.

    def begin(self, head: RequestHead, rest: bytes, now: float) -> None:
        """Route and dispatch the request; `rest` came behind its head."""
        client = self.client
        context = self.context
        destination = client.frontend.router.route(head.host_name, head.target)
        if destination is None:
            self._refuse(RequestRefused(404, "nothing is served here"))
            return
        if head.rare is not None and any(context.pseudonym in via for via in head.rare.via):
            self._refuse(RequestRefused(508, "this request has been here before"))
            return
        self.backend, self.is_logged, self.rules = destination
        if head.method == b"TRACE" and not client.frontend.allows_trace:
            self._refuse(RequestRefused(405, "TRACE is not served"))
            return
        if head.length > context.most_in_body:
            self.refuse_body(RequestRefused(413, "the request body is too large"))
            return
        if head.cookies is not None and self.backend.affinity is not None:
            self._read_cookie(self.backend.affinity, head, head.cookies)
        identity, forwarded_host = client.identity, head.host
        if client.is_trusted:
            if head.rare is not None:
                self.client_address = client.frontend.real_client(
                    head.rare.forwarded_for, client.address
                )
            identity, forwarded_host = trusted_identity_fields(
                head, client.address, self.client_address, b"http"
            )
        if context.request_rates is not None and (
            wait := context.request_rates.came(self.client_address, now)
        ):
            self._refuse_for_now(rest, wait)
            return
        if not head.request_id:
            head.request_id = context.new_request_id()
        self.request_head = build_request(
            head,
            head.host or self.backend.host,
            identity,
            forwarded_host,
            context.via[head.minor_version],
        )
        if self.rules is not None and self.rules.resumes:
            self.request_head = self.request_head[:-2] + ACCEPTS_HANDOVER + b"\r\n"
        head.forwarded = b""  # a stream lasts for minutes, and needs it no more
        if head.rare is not None and head.rare.hops_left == 0:
            self._answer_as_final_recipient(rest)
            return
        if head.length and head.length == len(rest) <= context.most_for_retry:
            self.request_head += rest  # all of it came at once, and a retry needs no more
            self.bytes_in = len(rest)
        elif head.length:
            self.upload = Upload(self, head)
            if rest:
                self.upload.receive(rest)
                if self.is_over:
                    return
        elif rest:
            client.hold(rest)
        backend = self.backend
        if backend.sticks is not None and self.pinned_to is None and not backend.stick(self, now):
            self._ask_for_pin(backend)
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

    def _ask_for_pin(self, backend: Backend) -> None:
        """Another balancer may know where this session lives."""
        self.phase = "C"
        self.client.deadline = float("inf")  # it has its own, a quarter of a second
        self.dialing = self.context.tasks.spawn(self._pin(backend), name="pin of a session")

    async def _pin(self, backend: Backend) -> None:
        assert self.stuck is not None
        self.pinned_to = await backend.find_shared(self.stuck)
        self.dialing = None
        self.dispatch(self.context.clock())

    @property
    def is_strict(self) -> bool:
        """Only the server that its key is pinned to will do."""
        return self.stuck is not None and self.stuck.rule.is_strict

    # Q: who takes it?

    def dispatch(self, now: float) -> None:
        backend = self.backend
        assert backend is not None
        try:
            server = backend.choose(self, now)
        except NoServer as error:
            self._fail(error)
            return
        if server is not None:
            self._connect(backend, backend.pool.lease(server, now), now)
        else:
            self.phase = "Q"
            self.client.deadline = now + self.context.timeouts.queue
            self.client.has_moved = False
            backend.pool.wait(self)

    def lease_granted(self, lease: Lease) -> None:
        """Its turn in the queue has come (`pool.Waiter`)."""
        assert self.backend is not None
        self._connect(self.backend, lease, self.context.clock())

    # C: a connection.

    def _connect(self, backend: Backend, lease: Lease, now: float) -> None:
        self.phase = "C"
        self.lease = lease
        self.server = server = lease.server
        self.dispatched_at = now
        connections = backend.connections[server]
        if not self.must_dial:
            idle = connections.take_idle(now, fresh_only=not self.head.can_repeat)
            if idle is not None:
                self._send(idle, now)
                return
        self.client.deadline = now + self.context.timeouts.connect
        self.client.has_moved = False
        self.dialing = self.context.tasks.spawn(self._dial(connections), name="dial")

    async def _dial(self, connections: ServerConnections) -> None:
        try:
            connection = await connections.dial()
        except ConnectFailed as error:
            self.dialing = None
            self.server_failed(error)
            return
        except Exhausted as error:
            self.dialing = None
            self._fail(error)
            return
        self.dialing = None
        self._send(connection, self.context.clock())

    # H: the request leaves; its response head is awaited.

    def _send(self, connection: UpstreamConnection, now: float) -> None:
        self.phase = "H"
        self.upstream = connection
        self.connected_at = now
        client = self.client
        client.has_moved = False
        timeouts = self.context.timeouts
        upload = self.upload
        if upload is None:
            connection.send_request(self, self.request_head)
            client.deadline = now + timeouts.server
            if self.stream is not None:
                self.stream.sent(now)
            return
        client.idle_timeout = timeouts.client
        upload.start(connection, self.request_head)
        client.deadline = now + (timeouts.server if upload.awaits_server else timeouts.client)

    # What may fail before the response head.

    def server_failed(self, error: ServerFailed) -> None:
        """The server let us down before its response head: retry, or give up (the retry table)."""
        now = self.context.clock()
        server, backend = self.server, self.backend
        assert server is not None
        assert backend is not None
        upstream, self.upstream = self.upstream, None
        is_stale = False
        if upstream is None:
            server.counters.connect_errors += 1
        else:
            # A kept connection that is found closed says nothing of the server's health.
            is_stale = upstream.is_reused and isinstance(error, ClosedBeforeResponse)
            upstream.abort()
        if not is_stale:
            server.failed(now)
            if backend.outliers is not None:
                backend.outliers.failed(server, now)
        if self.stream is not None:
            self.stream.attempt_failed(str(error))
            return
        may_repeat = error.retry is Retry.SAFE or (
            error.retry is Retry.REPEATABLE_ONLY and self.head.can_repeat
        )
        is_whole = self.upload is None or not self.upload.is_forgotten
        if may_repeat and is_whole and self.retries < backend.retries:
            self._retry(error, server, backend, now, is_stale=is_stale)
        else:
            self._fail(error)

    def _retry(
        self, error: ServerFailed, server: Server, backend: Backend, now: float, *, is_stale: bool
    ) -> None:
        """On another server, at once; a cookie's is left only for the last retry (HAProxy).

        Where there is no other, the same one is tried again after a while: it may be restarting.
        """
        is_last = self.retries + 1 >= backend.retries
        is_pinned = self.pinned_to is server
        others = backend.pool.can_wait((*self.tried, server), now)
        if is_pinned and self.is_strict:
            others, is_last = False, False
        stays = (
            error.retry is Retry.SAFE
            and server.may_serve(now)
            and (server.is_lone or (is_pinned and not is_last))
        )
        if not (others or stays or is_stale):
            self._fail(error)
            return
        self.retries += 1
        server.counters.retries += 1
        self.must_dial = is_stale
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()
        if is_stale and (is_pinned or not others):
            self.dispatch(now)
        elif stays:
            self.phase = "C"
            self.client.deadline = float("inf")
            delay = min(self.context.timeouts.connect, _TURN_AROUND)
            self.turn_around = self.context.loop.call_later(delay, self._turned_around)
        else:
            self.pinned_to = None
            self.tried = (*self.tried, server)
            self.dispatch(now)

    def _turned_around(self) -> None:
        self.turn_around = None
        self.dispatch(self.context.clock())

    def expired(self, now: float) -> None:
        """The deadline of the present phase has passed (called by the sweep)."""
        phase = self.phase
        if phase == "Q":
            self._fail(QueueTimeout("every server was full for too long"))
        elif phase == "C":
            self._stop_dialing()
            self.server_failed(ConnectTimeout("the connection took too long"))
        elif phase == "H":
            if self.upload is None or self.upload.awaits_server:
                self.server_failed(ResponseTimeout("no response head in time"))
            else:
                self._refuse(RequestRefused(408, "the request body took too long", "cH"))
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
            Detached(self.context, upstream, lease, self.head.method, limit)

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

    # Answers of our own.

    def _fail(self, error: ExchangeFailed) -> None:
        """No server will answer it."""
        if self.stream is not None:
            self.stream.attempt_failed(str(error))
            return
        # Nothing of a response has left.
        keep_alive = self._may_keep_client
        answer = failure(error, method=self.head.method, keep_alive=keep_alive)
        self.reason = str(error)
        self._answer(answer, error.status, error.termination, keep_alive=keep_alive)

    def _refuse(self, error: RequestRefused, *, keep_alive: bool = False) -> None:
        self.client.frontend.counters.refuse(error.status, error.reason)
        self.reason = error.reason
        with_body = self.head.method != b"HEAD"
        answer = refusal(error, keep_alive=keep_alive, with_body=with_body)
        self._answer(answer, error.status, error.termination, keep_alive=keep_alive)

    def _refuse_for_now(self, rest: bytes, wait: int) -> None:
        """Its client has had enough requests for now."""
        if rest:
            self.client.hold(rest)
        error = RequestRefused(429, "too many requests from this address", retry_after=wait)
        self._refuse(error, keep_alive=self._may_keep_client)

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
            self._refuse(refused)

    def _answer_as_final_recipient(self, rest: bytes) -> None:
        """Max-Forwards is used up (RFC 9110 section 7.6.2)."""
        if rest:
            self.client.hold(rest)
        keep_alive = self._may_keep_client
        answer = final_recipient(self.head.method, self.request_head, keep_alive=keep_alive)
        self._answer(answer, 200, "LR", keep_alive=keep_alive)

    @property
    def _may_keep_client(self) -> bool:
        return self.head.keep_alive and self.is_request_read and self.context.keeps_clients

    def _answer(self, answer: bytes, status: int, termination: str, *, keep_alive: bool) -> None:
        now = self.context.clock()
        self.status = status
        self.bytes_out += len(answer)
        self.context.send(self.client.transport, answer)
        self.finish(termination, now)
        self.client.exchange_done(now, keep_alive, self.is_request_read)

    # The end.

    def finish(self, termination: str, now: float) -> None:
        """The one end: whatever is still held is given back, and the exchange is recorded."""
        if self.is_over:
            raise RuntimeError(f"{self!r} has ended twice")
        self.is_over = True
        if self.phase != "D" and self.phase != "H":  # the common ones
            self.stop_waiting()
        if self.stream is not None:
            self.stream.stop()
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
