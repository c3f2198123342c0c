"""The two sides of an exchange, as it sees them: it knows no concrete connection.

    Downstream    the client's side of one request. HTTP/1: the connection itself. HTTP/2: a stream
    Peer          facts of the client's connection, for all requests on it
    Connection    a connection from a client, as the sweep and the operator see it
    ServerSide    the server's side of one request: a connection, or a stream of one
    ResponseSink  called by a server's side: an exchange, or an abandoned one
    Traffic       an exchange, as those see it that count for it
    RequestBody   the body of a request, as a server's side sees it
    TurnGate      the turn of a request, on a route with `turns`
    TurnRequest   an exchange, as its turn sees it
    TunnelSink    called by the ends of a tunnel
    TunnelEnd     one side of a tunnel

The order of calls to an exchange: `admit(exchange, now)`; if it is admitted, `begin(data, ended,
now)` with the received part of the request's body, then `receive(data)` any number of times, and
`request_ended()`. The client's side checks the framing of the body: `refuse_body` if it breaks. It
passes data as a server of HTTP/1.1 takes it: in chunks, the last one included, if the head has
no length. It adds what it took for that to `bytes_in`.

At any time: `client_left`, `client_is_slow`, `client_caught_up`, `sweep`, `shut_down`. The exchange
ends by itself, and calls `done` or `cut_off` on its client's side, once.

Base classes and not `typing.Protocol`, whose attributes a compiled caller looks up by name (33 ns
instead of 4). Those that a connection inherits beside its `Endpoint` are traits in mypyc's sense:
no slots, no state, no constructor; an interpreted class can't inherit from a compiled trait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mypy_extensions import mypyc_attr, trait

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping

    from hermes_lb.backends import FrontendCounters, Server
    from hermes_lb.backends.dialing import Dialer, Peers
    from hermes_lb.errors import InvalidBody, RequestRefused, ServerFailed
    from hermes_lb.http import Body, RequestHead, ResponseHead
    from hermes_lb.http.https import Redirect
    from hermes_lb.http.sse import EventsBody
    from hermes_lb.proxy.local_replies import LocalReply


@mypyc_attr(allow_interpreted_subclasses=True)
class Entrance:
    """A frontend, as far as its requests need it (`hermes_lb.listen.Frontend`)."""

    __slots__ = ()

    name: str
    counters: FrontendCounters
    router: Any
    redirect: Redirect | None
    hsts: bytes
    via: tuple[bytes, ...]
    pseudonym: bytes
    allows_trace: bool
    is_stopped: bool
    #: Makes a connection by HTTP/2 of one that has begun so; None: HTTP/1 only.
    make_http2: Callable[[Any], FramedConnection] | None

    def trusts(self, address: str) -> bool:
        """True if the peer of this plain address may speak for its own clients."""
        raise NotImplementedError

    def real_client(self, forwarded_for: list[bytes], peer: str) -> str:
        """The client's address by X-Forwarded-For: the last one that no trusted proxy has."""
        raise NotImplementedError

    def pause(self) -> None:
        """Stop accepting for now: clients wait in the backlog."""
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class AcceptLimit:
    """How many client connections there may be (`hermes_lb.listen.ConnectionLimit`). Here: any."""

    __slots__ = ()

    def guard(self, frontend: Entrance) -> None:
        """`frontend` is about to accept, or not if the limit is reached."""

    def forget(self, frontend: Entrance) -> None:
        """It has stopped accepting."""

    def acquire(self) -> None:
        """Called for each connection, once it is in `LiveConnections.clients`."""

    def release(self) -> None:
        """Called for each connection, once it has left `LiveConnections.clients`."""

    def reconfigure(self, most: int) -> None:
        """Change the limit; existing connections are kept."""

    def taker(self, listener: object) -> Callable[[int], bool] | None:
        """Passes the next connection of `listener` to another process, by its descriptor.

        It returns False if it can't. None: this process serves it.
        """
        return None


@trait
class Source:
    """A connection whose bytes of a head are processed with those of others (`IoBatch`)."""

    __slots__ = ()

    transport: asyncio.Transport

    def process(self, data: bytes) -> None:
        """The bytes that came in this loop iteration."""
        raise NotImplementedError


@trait
class Kept(Source):
    """A connection to a server that has served a request before (`IoBatch.reuse`)."""

    __slots__ = ()

    def refuse(self) -> None:
        """It has ended, or has input that belongs to no request: its request is not written."""
        raise NotImplementedError


class Peer:
    """A client's connection: its frontend and its addresses.

    - `scheme`: b"http" or b"https". `tls_version`: "" without TLS. `tls_name`: by SNI.
    - `address`, `port`: of the client, plain; by a PROXY header if there was one.
    - `destination`: the address that the client connected to, if a PROXY header has it.
    - `identity`: field lines for the servers. `certificate`: those about the client's certificate.
    """

    __slots__ = (
        "address",
        "certificate",
        "destination",
        "frontend",
        "identity",
        "is_trusted",
        "log_name",
        "port",
        "scheme",
        "tls_name",
        "tls_version",
    )

    def __init__(self, frontend: Entrance, scheme: bytes) -> None:
        self.frontend = frontend
        self.scheme = scheme
        self.address = ""
        self.port = 0
        self.destination: tuple[str, int] | None = None
        self.log_name = ""
        self.identity = b""
        self.certificate = b""
        self.is_trusted = False
        self.tls_version = ""
        self.tls_name = ""


@trait
class Connection:
    """A connection from a client. `deadline`: between exchanges, in monotonic seconds."""

    __slots__ = ()

    peer: Peer
    deadline: float

    @property
    def is_idle(self) -> bool:
        """True between two requests: no byte of the next one has arrived."""
        raise NotImplementedError

    def exchanges(self) -> tuple[ResponseSink, ...]:
        """Those in progress, as of now: one at most with HTTP/1."""
        raise NotImplementedError

    def sweep(self, now: float) -> None:
        """Look at the deadlines of the connection and of its exchanges."""
        raise NotImplementedError

    def close_gracefully(self, now: float) -> None:
        """Its frontend has stopped: end it after this request, and one that may be on its way."""
        raise NotImplementedError

    def shut_down(self) -> None:
        """The balancer ends: cut its exchanges, each visibly, and the connection."""
        raise NotImplementedError

    def close(self) -> None:
        """Close when all written bytes have left."""
        raise NotImplementedError

    def abort(self) -> None:
        """End at once."""
        raise NotImplementedError


@trait
class Framed(Source):
    """A connection that many streams share: its frames are written once a loop iteration."""

    __slots__ = ()

    def write_frames(self) -> None:
        """Add what may leave now to `IoBatch.writes`."""
        raise NotImplementedError

    def abort(self) -> None:
        """End at once."""
        raise NotImplementedError


@trait
class FramedConnection(Framed, Connection):
    """One from a client."""

    __slots__ = ()


@trait
class Downstream:
    """The client's side of one exchange.

    - `received_at`: when the first byte of the request came, in monotonic seconds.
    - `is_writing_paused`: the client does not read fast enough; `client_caught_up` follows.
    """

    __slots__ = ()

    peer: Peer
    received_at: float
    is_writing_paused: bool

    @property
    def unsent(self) -> int:
        """Bytes that were sent and that the client's kernel has not taken."""
        raise NotImplementedError

    def local_address(self) -> tuple[str, int]:
        """Where the client connected to; ("", 0) for a Unix socket."""
        raise NotImplementedError

    def body_for(self, head: ResponseHead, length: int) -> Body:
        """Checks the framing of a response's body of this length, and emits this side's."""
        raise NotImplementedError

    def send_informational(self, head: ResponseHead) -> int:
        """A 1xx, if the client's version has them -> its size."""
        raise NotImplementedError

    @property
    def can_insert(self) -> bool:
        """True if comments may be inserted between the events of a response without a length."""
        raise NotImplementedError

    @property
    def takes_chunks(self) -> bool:
        """True if `send` takes a body without a length in chunks (HTTP/1.1); False: as it is."""
        raise NotImplementedError

    def send_head(
        self,
        head: ResponseHead,
        fields: bytes,
        length: int,
        may_keep: bool,
        first: bytes,
    ) -> int:
        """Send the response's head, and `first` of its body with it -> the size of both.

        `fields`: lines, each with its CRLF. `length`: of the body, or negative.
        `may_keep`: as far as the request is concerned, the connection may go on after the response.
        """
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Bytes of a body that leave together with others of this loop iteration."""
        raise NotImplementedError

    def send_data(self, data: bytes) -> None:
        """A chunk of a stream, at once: the path of every token."""
        raise NotImplementedError

    def reply(self, reply: LocalReply, *, may_keep: bool) -> int:
        """A response of our own -> its size."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """The receiver of the request's body can take no more."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        raise NotImplementedError

    def refuse_rest(self) -> None:
        """The response came early: discard the rest of the request, within bounds."""
        raise NotImplementedError

    def done(self, now: float, is_read: bool) -> None:
        """The response is complete. `is_read`: all of the request has been received.

        Bytes may still be unsent, below the mark at which `is_writing_paused` begins. They are this
        side's then, and so is their deadline: `Connection.sweep` covers it.
        """
        raise NotImplementedError

    def cut_off(self, termination: str) -> None:
        """The exchange ends before its response does, in a way that can't be taken for an end.

        `termination`: why, in the letters of the log ("CH": the client has left). HTTP/2: the
        reason of a reset.
        """
        raise NotImplementedError

    def open_tunnel(self, tunnel: TunnelSink) -> TunnelEnd:
        """Pass bytes both ways; those that followed the request are held."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class RequestBody:
    """The body of a request, where it is sent in parts."""

    __slots__ = ()

    def is_sent(self, upstream: ServerSide) -> bool:
        """Asked when the response begins: has the whole body been written?"""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class ResponseSink:
    """Called by a server's side."""

    __slots__ = ()

    def informational(self, head: ResponseHead) -> bool:
        """A 1xx other than 101. False: nothing more is wanted."""
        raise NotImplementedError

    def response_head(self, upstream: ServerSide, head: ResponseHead, rest: bytes) -> None:
        """The final response's head, or a 101; `rest` follows it.

        It comes a second time if `upstream` had to `hold` it.
        """
        raise NotImplementedError

    def response_data(self, upstream: ServerSide, body: Body, data: bytes) -> None:
        raise NotImplementedError

    def response_ended(self, body: Body, error: Exception | None) -> None:
        """The server's connection has gone; that may be the end of the body, or cut it."""
        raise NotImplementedError

    def server_failed(self, error: ServerFailed) -> None:
        """There will be no response head."""
        raise NotImplementedError

    def not_sent(self) -> None:
        """The kept connection had ended before the request was written: nothing has failed."""
        raise NotImplementedError

    def server_is_slow(self) -> None:
        """The server does not read the request's body fast enough."""
        raise NotImplementedError

    def server_caught_up(self) -> None:
        raise NotImplementedError

    # For checks that time out, and for the operator.

    @property
    def is_queued(self) -> bool:
        """True while it waits for a free place on a server."""
        return False

    @property
    def progress(self) -> tuple[float, int]:
        """When it began, and bytes of the response so far: more of them show a live server."""
        raise NotImplementedError

    def describe(self, now: float) -> Mapping[str, Any]:
        """A row of the requests in flight (`control.operator.Session`), all but its process."""
        raise NotImplementedError

    def shut_down(self) -> None:
        """End at once: the operator wants it, or the balancer ends."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class Traffic(ResponseSink):
    """A sink that counts bytes from the client and to it; whether any passed since the last sweep.

    It has state, so that both sides and the ends of a tunnel count without a call.
    """

    __slots__ = ("bytes_in", "bytes_out", "saw_traffic")

    bytes_in: int
    bytes_out: int
    saw_traffic: bool


@mypyc_attr(allow_interpreted_subclasses=True)
class ConnectionPool:
    """Connections to one server: idle ones, and new ones."""

    __slots__ = ()

    sends_client_address: bool
    speaks_http2: bool

    def take_idle(
        self, now: float, *, fresh_only: bool, check_now: bool = True
    ) -> ServerSide | None:
        """A kept connection; None: dial. `fresh_only`: one that is unlikely to be closing.

        `check_now`: it has no input now. Otherwise `send_request` may call `not_sent`.
        """
        raise NotImplementedError

    async def dial(self, peers: Peers | None, *, tunnel: bool = False) -> ServerSide:
        """A new connection. Raises ConnectFailed or Exhausted; the caller bounds the time.

        `tunnel`: for a request that may become one.
        """
        raise NotImplementedError

    def reconfigure(self, *, keep: int, idle_timeout: float, dialer: Dialer) -> None:
        """Change the limits and the dialer, for new connections."""
        raise NotImplementedError

    def retire(self) -> None:
        """Its server has left the configuration: keep nothing."""
        raise NotImplementedError

    def close_idle(self) -> None:
        raise NotImplementedError

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long."""
        raise NotImplementedError


@trait
class ServerSide:
    """The server's side of one exchange.

    - `server`: which one. `is_reused`: it has served a request before.
    - `sink`: the receiver of the response. `body`: of the response, once its head has come.
    """

    __slots__ = ()

    server: Server
    is_reused: bool
    is_writing_paused: bool
    sink: ResponseSink | None
    body: Body | None

    @property
    def unsent(self) -> int:
        """Bytes that were sent and that the server's kernel has not taken."""
        raise NotImplementedError

    @property
    def has_unwritten(self) -> bool:
        """True while bytes wait in this loop iteration to be written."""
        raise NotImplementedError

    def send_request(
        self, sink: ResponseSink, data: bytes, upload: RequestBody | None = None
    ) -> None:
        """Send the head, and the received part of the body; `upload` sends the rest."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """More of the request's body."""
        raise NotImplementedError

    def expect(self, body: Body) -> None:
        """Call the sink's `response_data` with this body, until it is complete."""
        raise NotImplementedError

    def pass_to(self, sink: ResponseSink) -> None:
        """Another sink gets the rest of the response."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """The client can take no more of the response."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        raise NotImplementedError

    def hold(self, until: Awaitable[object]) -> None:
        """Keep the response head that is being passed on; pass it again after `until`.

        While a body is passed on: call `response_data` without data after `until`.
        """
        raise NotImplementedError

    def give_back(self, now: float, is_clean: bool) -> None:
        """The exchange is over. `is_clean`: both messages ended exactly where they should."""
        raise NotImplementedError

    def abort(self) -> None:
        """End this side at once: the server sees its client leave."""
        raise NotImplementedError

    def silence(self, now: float) -> float | None:
        """Seconds since something came of a response or a tunnel; None: there is none."""
        raise NotImplementedError

    def open_tunnel(self, tunnel: TunnelSink) -> TunnelEnd:
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class TurnGate:
    """The turn of a request, on a route with `turns` (`hermes_lb.proxy.turns`).

    It executes the request once, or answers it from the turn of another request.
    - `most_kept`: bytes of the request's body that are kept until a server is found; 0: as usual.
    """

    __slots__ = ("most_kept",)

    most_kept: int

    def body_received(self, data: bytes) -> None:
        """More of the request's body, as a server gets it."""
        raise NotImplementedError

    def body_ended(self) -> None:
        """All of the request's body has been received."""
        raise NotImplementedError

    def body_sent(self) -> None:
        """The received part of the request's body has been sent to a server."""
        raise NotImplementedError

    def begin(self, body: bytes, now: float) -> None:
        """Claim the turn; `TurnRequest.proceed` follows, if this request executes it.

        `body`: if all of it came with the head, and no upload was made.
        """
        raise NotImplementedError

    def starts(self, server: Server, now: float) -> bool:
        """A server has been picked. True: that it may get the request is being stored, and
        `TurnRequest.connect` follows."""
        raise NotImplementedError

    def holds(self, upstream: ServerSide, head: ResponseHead, now: float) -> bool:
        """A response head has come. True: `upstream` holds it, and passes it again."""
        raise NotImplementedError

    def events(self, length: int, after: bytes, resume_path: bytes) -> EventsBody | None:
        """The body of an event stream that other servers can continue, behind the event `after`,
        at `resume_path`; None: it is no turn."""
        raise NotImplementedError

    def session_timed_out(self) -> None:
        """The other turn of its session has taken too long."""
        raise NotImplementedError

    def client_left(self) -> bool:
        """True: the exchange goes on without its client."""
        raise NotImplementedError

    def client_is_slow(self) -> bool:
        """True: the exchange goes on as if the client read."""
        raise NotImplementedError

    def client_caught_up(self) -> None:
        raise NotImplementedError

    def over(self) -> None:
        """The exchange has ended."""
        raise NotImplementedError

    def describe(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row of the exchange, as it is for a turn."""
        raise NotImplementedError


@trait
class TurnRequest:
    """An exchange, as its turn sees it."""

    __slots__ = ()

    bytes_out: int
    client: Downstream
    client_address: str
    connected_at: float
    head: RequestHead
    is_request_read: bool
    limits: list[float]  # timeouts, by phase
    peer: Peer
    phase: int
    request_head: bytes
    retries: int
    status: int
    upstream: ServerSide | None

    @property
    def is_over(self) -> bool:
        raise NotImplementedError

    @property
    def letter(self) -> str:
        """The phase as the log has it."""
        raise NotImplementedError

    @property
    def may_keep_client(self) -> bool:
        """True if the client's connection can be kept after a local reply."""
        raise NotImplementedError

    def enter(self, phase: int, now: float) -> None:
        """The next phase begins."""
        raise NotImplementedError

    def note_traffic(self) -> None:
        """Bytes passed: an idle deadline restarts."""
        raise NotImplementedError

    def take_turn(self, turn: TurnGate, client: Downstream) -> None:
        """It has a turn, and so another client's side."""
        raise NotImplementedError

    def rewrite(self, request_head: bytes) -> None:
        """Servers get this head instead."""
        raise NotImplementedError

    def ask_for_body(self) -> None:
        """Send a 100, if the client holds its body back for it."""
        raise NotImplementedError

    def discard_body(self) -> None:
        """No server gets the body: it is read, and not kept."""
        raise NotImplementedError

    def note(self, reason: str) -> None:
        """For the log: why it was refused, or what happened to it."""
        raise NotImplementedError

    def proceed(self, now: float) -> None:
        """Find a server for it."""
        raise NotImplementedError

    def connect(self, now: float) -> None:
        """Go on with the server that was picked."""
        raise NotImplementedError

    def replay(self, upstream: ServerSide, head: ResponseHead, server: str, first: bytes) -> None:
        """Answer with a stored head, and the body that `upstream` passes; `first` comes before.

        `server`: the name of the server that has answered.
        """
        raise NotImplementedError

    def another(self, head: RequestHead, rules: Any) -> TurnRequest:
        """A request by the same client to the same backend, with this head; it is not sent.

        It is counted and logged as one of its own.
        `rules`: for its stream (`proxy.resume.StreamRules`).
        """
        raise NotImplementedError

    def continue_stream(self, path: bytes, after: bytes) -> None:
        """Get the rest of an event stream from any server: GET `path`, behind the event `after`."""
        raise NotImplementedError

    def lead_to(self, backend: Any) -> None:
        """It is this backend's (`proxy.select.Backend`)."""
        raise NotImplementedError

    def insert(self, comment: bytes) -> None:
        """Send a comment, framed as the events are."""
        raise NotImplementedError

    def count_turn(self, outcome: int) -> None:
        """One more turn with this outcome, by its index in `TURN_OUTCOMES`."""
        raise NotImplementedError

    def reply(self, reply: LocalReply, termination: str, *, may_keep: bool) -> None:
        """End with a response of our own; no byte of another one has been sent."""
        raise NotImplementedError

    def refuse(self, error: RequestRefused) -> None:
        """End with the answer to a request that is not accepted."""
        raise NotImplementedError

    def refuse_body(self, error: InvalidBody | RequestRefused) -> None:
        """The request's body broke its framing, or is larger than it may be."""
        raise NotImplementedError

    def abort_client(self, termination: str, reason: str = "") -> None:
        """Cut the response in a way that the client can see."""
        raise NotImplementedError

    def client_is_slow(self) -> None:
        raise NotImplementedError

    def client_caught_up(self) -> None:
        raise NotImplementedError

    def client_left(self) -> None:
        raise NotImplementedError

    def sweep(self, now: float) -> None:
        raise NotImplementedError

    def shut_down(self) -> None:
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class TunnelSink:
    """Called by the ends of a tunnel."""

    __slots__ = ()

    traffic: Traffic

    def half_closed(self, end: TunnelEnd, other: TunnelEnd) -> bool:
        """The peer of `end` sends no more. False: so both directions have ended."""
        raise NotImplementedError

    def lost(self, end: TunnelEnd, error: Exception | None) -> None:
        """The connection of `end` has gone."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class TunnelEnd:
    """One side of a tunnel: takes bytes for its peer, and passes its peer's to the other end.

    `has_ended`: its peer sends no more.
    """

    __slots__ = ()

    has_ended: bool

    def start(self, other: TunnelEnd, first: bytes) -> None:
        """Pass on `first`, then all input."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def can_half_close(self) -> bool:
        raise NotImplementedError

    def write_eof(self) -> None:
        raise NotImplementedError

    def pause_reading(self) -> None:
        raise NotImplementedError

    def resume_reading(self) -> None:
        raise NotImplementedError

    def close(self, patience: float) -> None:
        """Close when all written bytes have left, or after `patience` seconds."""
        raise NotImplementedError


if TYPE_CHECKING:
    #: Called with `(server, keep=, idle_timeout=, dialer=)`.
    MakePool = Callable[..., ConnectionPool]
