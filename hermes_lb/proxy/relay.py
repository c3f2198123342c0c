"""Bodies both ways, back-pressure, and the end of the message: phases D, L and T.

A chunk of a response leaves in the loop turn in which it came; there is no object and no task for
it. `pause_writing` on one side pauses reading on the other, so a slow reader costs the two socket
buffers, one high-water mark and one read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity.response_cookies import set_cookie, without_the_servers
from hermes_lb.errors import BadResponse, InvalidBody
from hermes_lb.http import UNTIL_CLOSE, build_response, make_body
from hermes_lb.http.https import hsts_unless_said
from hermes_lb.http.limits import INFORMATIONAL_RESPONSES
from hermes_lb.proxy.resume import opened_stream
from hermes_lb.proxy.state import ExchangeState
from hermes_lb.proxy.tunnel import Tunnel

if TYPE_CHECKING:
    from hermes_lb.http import Body, ResponseHead
    from hermes_lb.proxy.http1.upstream import UpstreamConnection


class Relay(ExchangeState):
    """The way of an exchange from the response head to the last byte."""

    __slots__ = ()

    # The response's head.

    def response_begun(self) -> None:
        """A part of a response's head has come. The client has seen nothing, so a retry is safe."""

    def informational(self, head: ResponseHead) -> bool:
        """A 1xx other than 101: relayed to clients that know them. False: the exchange is over."""
        self.informational_responses += 1
        if self.informational_responses > INFORMATIONAL_RESPONSES:
            self.server_failed(BadResponse("too many informational responses"))
            return False
        self.head.can_repeat = False  # the server is at work, and the client knows
        if self.upload is not None and head.status == 100:
            self.upload.continued()
        if self.head.minor_version == 1 and self.stream is None:  # or it is within its response
            block = build_response(head, head.forwarded, True, True, 0)
            self.bytes_out += len(block)
            self.context.send(self.client.transport, block)
        return True

    def response_head(self, upstream: UpstreamConnection, head: ResponseHead, rest: bytes) -> None:
        """The final response's head, or a 101; `rest` came behind it.

        It comes a second time if `upstream` had to `hold` it.
        """
        if self.stream is not None:  # the rest of a response that has begun
            self.stream.response_head(upstream, head, rest)
            return
        context, request, upload = self.context, self.head, self.upload
        self.status = status = head.status
        if status == 101 and not (request.upgrade and head.upgrade.lower() == request.upgrade):
            self.server_failed(BadResponse("101 without having been asked to switch protocols"))
            return
        now = context.clock()
        backend, server = self.backend, self.server
        assert backend is not None and server is not None  # noqa: PT018 - both were chosen long ago
        if self.response_at < 0.0:
            self.response_at = now
            if backend.key_rules is not None:
                news = backend.learn(self, server, head, now)
                if news is not None:
                    self.head.can_repeat = False  # it has executed it
                    self.client.deadline = float("inf")  # it has its own
                    upstream.hold(news)
                    return
        if self.rules is not None:
            self.stream = opened_stream(self, self.rules, head)
        self.request_head = b""
        if upload is not None:
            upload.forget()
        if server.fails:
            backend.pool.answered(server)
        if backend.outliers is not None:
            backend.outliers.answered(server, status, now)
        if backend.learner is not None:
            took = self.response_at - self.dispatched_at
            backend.learner.answered(server, head, took, now)
        forwarded, added = head.forwarded, b""
        if (affinity := backend.affinity) is not None and affinity.knows(server):
            if head.has_set_cookie:
                forwarded, added = without_the_servers(self, affinity, server, head)
            if affinity.inserts:
                added = set_cookie(self, affinity, server, head)
        if (hsts := self.client.frontend.hsts) and self.client.via.tls:
            added += hsts_unless_said(hsts, forwarded)
        if not head.has_date and status >= 200:
            added += context.date(now)  # RFC 9110 section 6.6.1
        length = head.body_length(request.method)
        to_http11 = request.minor_version == 1
        keeps = context.keeps_clients and request.keep_alive and (upload is None or upload.is_read)
        self.keeps_client = keeps = keeps and (to_http11 or length >= 0)
        block = build_response(head, forwarded, to_http11, keeps, length, added)
        if status == 101:
            self._open_tunnel(upstream, block, rest)
        elif length != len(rest):
            self._start_body(upstream, head, length, block, rest, now)
        else:  # the common case: all of it came at once
            block += rest
            self.bytes_out += len(block)
            context.send(self.client.transport, block)
            said = head.length
            is_clean = length == said or (said == UNTIL_CLOSE and request.method != b"HEAD")
            self._complete(upstream, now, is_clean)

    def _start_body(
        self,
        upstream: UpstreamConnection,
        head: ResponseHead,
        length: int,
        block: bytes,
        rest: bytes,
        now: float,
    ) -> None:
        """`block` is the head for the client; the body has begun with `rest`, or comes later."""
        client = self.client
        if self.upload is not None and not self.upload.is_read and head.status >= 300:
            self.upload.stop()
        self.is_stream = length < 0 and head.is_event_stream
        body: Body
        if self.stream is not None:
            body = self.stream.body
        else:
            body = make_body(length, to_http11=self.head.minor_version == 1)
        self.start_data(upstream, body, now)
        problem = ""
        if rest:
            try:
                block += body.feed(rest)
            except InvalidBody as error:
                problem = str(error)
        self.bytes_out += len(block)
        self.context.send(client.transport, block)
        if problem:
            self._lose_server(problem)
        elif body.is_done:
            self._body_done(upstream, body, now)

    def start_data(self, upstream: UpstreamConnection, body: Body, now: float) -> None:
        """The body of the response comes from `upstream`, until it is done."""
        self.phase = "D"
        client = self.client
        client.idle_timeout = self.context.timeouts.server
        client.deadline = now + client.idle_timeout
        client.has_moved = False
        upstream.body = body
        if client.is_writing_paused:
            self.client_is_slow()

    # D: the response's body.

    def response_data(self, upstream: UpstreamConnection, body: Body, data: bytes) -> None:
        """A chunk from the server leaves for the client: the path of every token."""
        try:
            passed = body.feed(data)
        except InvalidBody as problem:
            self._lose_server(str(problem))
            return
        client = self.client
        client.has_moved = True
        self.bytes_out += len(passed)
        self.context.turn.relay(client.transport, passed)
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
        self.context.send(self.client.transport, last)
        self._complete(upstream, self.context.clock(), False)

    def _body_done(self, upstream: UpstreamConnection, body: Body, now: float) -> None:
        if self.stream is not None and self.stream.body.is_handed_over:
            self._lose_server("it has handed over", "handed_over")
        else:
            self._complete(upstream, now, not body.excess)

    def _lose_server(self, reason: str, outcome: str = "resumed") -> None:
        """The server's part of the response has ended before the response did."""
        if self.stream is None or not self.stream.server_lost(reason, outcome):
            self.abort_client("SD", reason)

    def let_go_of_server(self) -> None:
        """Give back what is held of the present server."""
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.abort()
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()

    def client_is_slow(self) -> None:
        """The client's write buffer is above its high-water mark: hold the server back."""
        if self.tunnel is None and self.upstream is not None:
            self.upstream.pause_reading()
            if self.phase == "D":
                self.client.idle_timeout = self.context.timeouts.client
                self.client.has_moved = True

    def client_caught_up(self) -> None:
        """The write buffer has drained."""
        if self.phase == "L":
            now, is_read = self.context.clock(), self.is_request_read
            self.finish("--", now)
            self.client.exchange_done(now, self.keeps_client, is_read)
        elif self.upstream is not None:
            self.upstream.resume_reading()
            if self.phase == "D":
                self.client.idle_timeout = self.context.timeouts.server
                self.client.has_moved = True

    def server_is_slow(self) -> None:
        """The server's write buffer is above its high-water mark: hold the client back."""
        client = self.client
        client.pause_reading()
        if self.phase == "H":
            client.idle_timeout = self.context.timeouts.server
            client.has_moved = True

    def server_caught_up(self) -> None:
        """The write buffer has drained."""
        client = self.client
        client.resume_reading()
        if self.phase == "H" and not self.is_request_read:
            client.idle_timeout = self.context.timeouts.client
            client.has_moved = True

    # L: the last bytes.

    def _complete(self, upstream: UpstreamConnection, now: float, is_clean: bool) -> None:
        """The server is done. `is_clean`: its connection can serve another request.

        It can't behind a body that was announced and must not come (HEAD, 304): that may come
        late, and would then be the next client's response.
        """
        self.upstream = None
        client = self.client
        is_read = self.upload is None or self.upload.is_read
        upstream.give_back(now, is_clean)
        if client.is_writing_paused:
            # A client that has much to read yet is waited for, and holds the lease. Up to the
            # high-water mark the rest leaves without us: to wait for it would cost each request.
            self.phase = "L"
            client.idle_timeout = self.context.timeouts.client
            client.deadline = now + client.idle_timeout
            client.has_moved = False
        else:
            self.finish("--", now)
            client.exchange_done(now, self.keeps_client, is_read)

    def abort_client(self, termination: str, reason: str = "") -> None:
        """Cut the response in a way that the client can see: never by a clean end."""
        # A stream has noted how often it was resumed.
        self.reason = "; ".join(filter(None, (self.reason, reason)))
        now = self.context.clock()
        client = self.client
        self.finish(termination, now)
        client.exchange = None
        # Chunks and lengths show that something is missing. Without them only a reset does.
        client.abort(reset=self.head.minor_version == 0)

    def relay_expired(self) -> None:
        """Silence for too long in phase D, L or T."""
        if self.phase == "L" or self.client.is_writing_paused:
            self.abort_client("c" + ("L" if self.phase == "L" else "D"))
        elif self.stream is None or not self.stream.server_lost("it was silent for too long"):
            self.abort_client("sD")

    # T: a tunnel.

    def _open_tunnel(self, upstream: UpstreamConnection, block: bytes, rest: bytes) -> None:
        self.phase = "T"
        self.is_stream = True
        client = self.client
        client.idle_timeout = self.context.timeouts.tunnel
        client.has_moved = True
        self.bytes_out += len(block)
        self.context.send(client.transport, block)
        self.tunnel = tunnel = Tunnel(self, client, upstream)
        tunnel.open(from_client=client.take_held(), from_server=rest)
