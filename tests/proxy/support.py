"""Scripted peers on both sides of a real balancer, so that a test reads as a transcript.

    origin = await stage.origin()
    lb = await stage.balancer(origin)
    client = await stage.client(lb)
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    at_origin = await origin.accept()
    request = await at_origin.read_request()
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert (await client.read_response()).body == b"hi"

`line`, `asked`, `begun` and `with_backup` set the scenes that most tests begin with.

A peer is a bare socket: it reads and writes only when the test says so, and what it does not read
stays in the kernel, so back-pressure is real. Every wait is bounded by `PATIENCE`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from unittest.mock import patch

import pytest

from hermes_lb import LoadBalancer
from hermes_lb.observe.access_log import AccessLog
from hermes_lb.observe.httplog import NO_SERVER
from hermes_lb.tasks import Tasks
from hermes_lb.testing import PATIENCE, Record, eventually

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from hermes_lb.backends import Pool, Server

_READ = 64 * 1024


async def turns(count: int = 5) -> None:
    """Let the event loop turn, so that what was sent is seen."""
    for _ in range(count):
        await asyncio.sleep(0)


class Ended(Exception):
    """The connection ended before what was waited for; `received` is what had come."""

    def __init__(self, received: bytes, *, by_reset: bool) -> None:
        super().__init__(f"{'reset' if by_reset else 'closed'} after {received[-200:]!r}")
        self.received = received
        self.by_reset = by_reset


class Head(NamedTuple):
    """A request's or a response's head."""

    raw: bytes
    start: str  # the first line
    fields: list[tuple[str, str]]

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        """Strict: what the balancer sends is never allowed to be sloppy."""
        lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        fields = []
        for line in lines[1:]:
            match = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?(.*)", line)
            assert match, f"not a header field: {line!r} in {raw!r}"
            fields.append((match[1], match[2]))
        return cls(raw, lines[0], fields)

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The one value of a field, None if it is absent; two of them fail the test."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} is there {len(values)} times: {values}"
        return values[0] if values else None


class Message(NamedTuple):
    """A head with its body, whatever the framing was."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status

    def get(self, name: str) -> str | None:
        return self.head.get(name)


class Peer:
    """One end of a connection. `received` holds every byte that ever came."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.received = bytearray()
        self._taken = 0  # of `received`
        self._loop = asyncio.get_running_loop()

    # What leaves.

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._loop.sock_sendall(self.sock, data)

    async def send_bytewise(self, data: bytes) -> None:
        """Each byte in a segment of its own."""
        for i in range(len(data)):
            await self.send(data[i : i + 1])
            await turns(2)

    async def send_until_stuck(self, data: bytes, most: int) -> int:
        """Send `data` over and over until nobody takes more -> how many bytes went out.

        They are `data` repeated, cut anywhere. It fails when `most` bytes were taken.
        """
        sent = 0
        stuck_since: float | None = None
        while sent < most:
            try:
                sent += self.sock.send(data[sent % len(data) :])
                stuck_since = None
                await turns(2)
            except BlockingIOError:
                # No event says "stuck": three tenths of a second without room must do.
                now = self._loop.time()
                stuck_since = stuck_since or now
                if now - stuck_since > 0.3:
                    return sent
                await asyncio.sleep(0.005)
        raise AssertionError(f"{sent} bytes were taken, and nothing held us back")

    async def send_until_refused(self, data: bytes, most: int = 256_000_000) -> None:
        """Send `data` over and over until the other side is seen to have gone."""
        for _ in range(most // len(data)):
            try:
                await self.send(data)
            except OSError:
                return
            await turns(1)
        raise AssertionError("everything was taken")

    def half_close(self) -> None:
        """FIN: we send no more, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def abort(self) -> None:
        """RST."""
        if self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()

    # What arrives.

    @property
    def unread(self) -> bytes:
        return bytes(self.received[self._taken :])

    def _take(self, size: int) -> bytes:
        taken = bytes(self.received[self._taken : self._taken + size])
        self._taken += size
        return taken

    async def _receive(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                data = await self._loop.sock_recv(self.sock, _READ)
        except TimeoutError:
            raise AssertionError(f"nothing came after {self.unread[-300:]!r}") from None
        except OSError:
            raise Ended(self.unread, by_reset=True) from None
        if not data:
            raise Ended(self.unread, by_reset=False)
        self.received += data

    async def read_some(self) -> bytes:
        """At least a byte."""
        if not self.unread:
            await self._receive()
        return self._take(len(self.unread))

    async def read_exactly(self, size: int) -> bytes:
        while len(self.received) - self._taken < size:
            await self._receive()
        return self._take(size)

    async def read_until(self, mark: bytes) -> bytes:
        """Up to the end of `mark`."""
        while (found := self.received.find(mark, self._taken)) < 0:
            await self._receive()
        return self._take(found + len(mark) - self._taken)

    async def read_to_end(self) -> bytes:
        """All that is left, up to a clean end; a reset raises Ended."""
        try:
            while True:
                await self._receive()
        except Ended as end:
            if end.by_reset:
                raise
            return self._take(len(self.unread))

    async def read_until_cut(self) -> bytes:
        """All that is left until the connection ends in any way."""
        try:
            return await self.read_to_end()
        except Ended:
            return self._take(len(self.unread))

    async def gets_nothing(self) -> bool:
        """True if there is nothing to read after several turns of the loop."""
        await turns(10)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self.unread
        except OSError:
            pass
        return False  # bytes, or an end

    async def read_head(self) -> Head:
        return Head.parse(await self.read_until(b"\r\n\r\n"))

    async def read_chunk(self) -> bytes:
        """The data of one chunk; b"" for the last one."""
        line = await self.read_until(b"\r\n")
        size = int(line, 16)
        data = await self.read_exactly(size)
        assert await self.read_exactly(2) == b"\r\n"
        return data

    async def read_body(self, head: Head, *, none: int | None = None) -> bytes:
        """By `head`'s framing; without any, `none` bytes, or up to a clean end."""
        length, coding = head.get("Content-Length"), head.get("Transfer-Encoding")
        assert length is None or coding is None, head
        if coding is not None:
            assert coding == "chunked"
            chunks = []
            while chunk := await self.read_chunk():
                chunks.append(chunk)
            return b"".join(chunks)
        if length is not None:
            return await self.read_exactly(int(length))
        return await self.read_to_end() if none is None else await self.read_exactly(none)


class Client(Peer):
    """Who talks to the balancer."""

    async def get(self, target: str = "/", *fields: str, version: str = "1.1") -> None:
        """Send a GET without waiting for anything."""
        await self.send(request("GET", target, *fields, version=version))

    async def post(self, body: bytes, *fields: str, target: str = "/") -> None:
        await self.send(request("POST", target, *fields, body=body))

    async def read_response(self, *, method: str = "GET") -> Message:
        """The next response, with its body. Ended: it was cut."""
        head = await self.read_head()
        if method == "HEAD" or head.status < 200 or head.status in (204, 304):
            return Message(head, b"")
        return Message(head, await self.read_body(head))


class AtOrigin(Peer):
    """A connection that an origin has accepted."""

    async def read_request(self) -> Message:
        head = await self.read_head()
        return Message(head, await self.read_body(head, none=0))

    async def respond(self, body: bytes = b"", *fields: str, status: int = 200) -> None:
        await self.send(response(body, *fields, status=status))


Handler = Callable[[AtOrigin, Message], Awaitable[None]]


class Origin:
    """A server behind the balancer: by hand (`accept`), or by itself (`serve`)."""

    def __init__(self, stage: Stage, sock: socket.socket) -> None:
        self._stage = stage
        self._sock = sock
        self.port: int = sock.getsockname()[1]
        self.connections: list[AtOrigin] = []
        self.requests: list[Message] = []  # that `serve` has read

    async def accept(self) -> AtOrigin:
        try:
            async with asyncio.timeout(PATIENCE):
                sock, _ = await asyncio.get_running_loop().sock_accept(self._sock)
        except TimeoutError:
            raise AssertionError("no connection came") from None
        connection = AtOrigin(sock)
        self.connections.append(connection)
        return connection

    async def accept_request(self) -> tuple[AtOrigin, Message]:
        """Accept a connection and read the first request on it."""
        connection = await self.accept()
        return connection, await connection.read_request()

    async def has_no_new_connection(self) -> bool:
        """True if nobody wants to connect after several turns of the loop."""
        await turns(10)
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return True
        sock.close()
        return False

    def serve(self, handler: Handler) -> None:
        """From now on each request on each connection goes to `handler`."""
        self._stage.tasks.spawn(self._accept_for(handler), name="origin")

    async def _accept_for(self, handler: Handler) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._sock)
            connection = AtOrigin(sock)
            self.connections.append(connection)
            self._stage.tasks.spawn(self._handle(connection, handler), name="at origin")

    async def _handle(self, connection: AtOrigin, handler: Handler) -> None:
        try:
            while True:
                message = await connection.read_request()
                self.requests.append(message)
                await handler(connection, message)
        except (Ended, OSError):
            connection.close()
        except AssertionError as problem:
            if connection.received:  # not: an idle connection on which nothing came
                self._stage.problems.append(f"at the origin: {problem!r}")

    def stop_listening(self) -> None:
        self._sock.close()

    def close(self) -> None:
        self._sock.close()
        for connection in self.connections:
            connection.close()


def request(
    method: str, target: str, *fields: str, body: bytes | None = None, version: str = "1.1"
) -> bytes:
    """A request's bytes; with a Host, and with a Content-Length if there is a body."""
    lines = [f"{method} {target} HTTP/{version}", *fields]
    if not any(field.lower().startswith("host:") for field in fields):
        lines.append("Host: balancer.test")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


# Heads of requests whose bodies are to come: in chunks, or more than anybody sends here.
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS_POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99000000\r\n\r\n"

# The fields of a request that opens a WebSocket: the example of RFC 6455 section 1.3.
WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def response(body: bytes = b"", *fields: str, status: int = 200) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *fields, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answers(body: bytes = b"ok", *fields: str, status: int = 200) -> Handler:
    """A handler that always says the same."""

    async def handle(connection: AtOrigin, message: Message) -> None:
        await connection.respond(body, *fields, status=status)

    return handle


class LogLine:
    """One line of the access log, taken apart, in the words of the log."""

    def __init__(self, line: str) -> None:
        record = Record.parse(line)
        self.line = line
        self.address = record.client.rpartition(":")[0]
        self.server = record.server or NO_SERVER
        self.backend = record.backend or record.frontend
        self.status = record.status
        self.bytes = record.size
        self.termination = record.termination
        self.cookies = record.cookies
        self.retries = f"{'+' if record.was_moved else ''}{record.retries}"
        self.request = record.request
        self.reason = record.reason
        self.queues = record.server_queue, record.backend_queue
        self.connections = record.connections
        # Which phases were reached, e.g. "TR Tw": their times are not -1.
        self.reached = " ".join(
            name for name in ("TR", "Tw", "Tc", "Tr") if record.times[name] >= 0
        )

    def __repr__(self) -> str:
        return self.line


# For `each`: the second server is asked only when the first one can't be.
FIRST_THEN_SECOND: list[dict[str, Any]] = [{}, {"backup": True}]

# Most tests run on uvloop only; a mark for those that run on asyncio's own loop as well.
on_both_loops = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


class Stage:
    """Everything that one test has running; leaving it checks what must hold after every test."""

    def __init__(self, folder: Path) -> None:
        self.tasks = Tasks()
        self.problems: list[str] = []
        self.unlogged = 0  # requests that shall not be in the access log
        self._folder = folder
        self._origins: list[Origin] = []
        self._clients: list[Client] = []
        self._sockets: list[socket.socket] = []
        self._balancers: list[tuple[LoadBalancer, Any, Path]] = []
        self._noise = _Noise(self.problems)

    async def __aenter__(self) -> Self:
        self._others = asyncio.all_tasks()
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.problems.append(f"the event loop says: {context}")
        )
        for name in ("hermes_lb", "asyncio"):
            logging.getLogger(name).addHandler(self._noise)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._end()
        finally:
            for name in ("hermes_lb", "asyncio"):
                logging.getLogger(name).removeHandler(self._noise)
        assert not self.problems, "\n".join(self.problems)

    async def _end(self) -> None:
        """All clients and origins leave; then nothing may be left of what they did."""
        await self.tasks.cancel_all()
        for client in self._clients:
            client.close()
        for origin in self._origins:
            origin.close()
        for sock in self._sockets:
            sock.close()
        for lb, context, path in self._balancers:
            try:
                await eventually(partial(is_quiet, lb, context))
            except AssertionError:
                self.problems.append(
                    f"left behind: {lb.pools}, {context.clients}, {context.upstreams}"
                )
            await lb.stop()
            if context.clients or context.upstreams:
                self.problems.append(f"open after stop: {context.clients}, {context.upstreams}")
            self._check_log(lb, path)
        await turns()
        for task in asyncio.all_tasks() - self._others - {asyncio.current_task()}:
            self.problems.append(f"a task is left: {task}")

    def _check_log(self, lb: LoadBalancer, path: Path) -> None:
        """Each request that was understood has one line; what was not is <BADREQ>."""
        lines = [LogLine(line) for line in path.read_text().splitlines()]
        logged = sum(line.request != "<BADREQ>" for line in lines)
        understood = sum(frontend.counters.requests for frontend in lb._plane.frontends)
        if logged != understood - self.unlogged:
            self.problems.append(f"{understood} requests, and in the log: {lines}")

    async def origin(self, *, receive_buffer: int | None = None, port: int = 0) -> Origin:
        """A server that listens on a port of its own, or on that of one that has stopped."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind(("127.0.0.1", port))
        sock.listen(1000)
        sock.setblocking(False)
        origin = Origin(self, sock)
        self._origins.append(origin)
        return origin

    async def serving(self, handler: Handler | None = None) -> Origin:
        """An origin that answers by itself: with "ok" if nothing else is said."""
        origin = await self.origin()
        origin.serve(handler or answers())
        return origin

    def nobody(self) -> int:
        """A port on which nobody listens: connections are refused."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self._sockets.append(sock)
        port: int = sock.getsockname()[1]
        return port

    def black_hole(self) -> int:
        """A port whose backlog is full, so that a connection never comes about."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        self._sockets.append(sock)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(sock.getsockname())
            self._sockets.append(filler)
        port: int = sock.getsockname()[1]
        return port

    async def balancer(
        self,
        *servers: Origin | int,
        server: dict[str, Any] | None = None,
        backend: dict[str, Any] | None = None,
        frontend: dict[str, Any] | None = None,
        timeouts: dict[str, Any] | None = None,
        each: list[dict[str, Any]] | None = None,
        **sections: Any,
    ) -> LoadBalancer:
        """One before these servers, agent1, agent2, ...

        `server` holds for all of them, `each` for one each. `sections`: more tables of the
        configuration (`limits`, `process`, ...), or other backends.
        """
        listed = []
        for i, target in enumerate(servers):
            port = target if isinstance(target, int) else target.port
            own = each[i] if each else {}
            listed.append(
                {"name": f"agent{i + 1}", "address": f"127.0.0.1:{port}", **(server or {}), **own}
            )
        return await self.start(
            {
                "timeouts": timeouts or {},
                "frontends": [
                    {
                        "name": "public",
                        "bind": "127.0.0.1:0",
                        "default_backend": "agents",
                        **(frontend or {}),
                    }
                ],
                **sections,
                "backends": {
                    "agents": {"servers": listed, **(backend or {})},
                    **sections.get("backends", {}),
                },
            }
        )

    async def start(self, config: dict[str, Any]) -> LoadBalancer:
        path = self._folder / f"access-{len(self._balancers)}.log"
        defaults = {"admin": {"enabled": False}, "log": {"access": str(path)}}
        # Tests wait for lines of the log; it need not be a quarter of a second each time.
        with patch("hermes_lb.plane.AccessLog", partial(AccessLog, flush_every=0.01)):
            lb = LoadBalancer({**defaults, **config})
            await lb.start()
        self._balancers.append((lb, lb._context, path))
        return lb

    async def client(self, lb: LoadBalancer | str, *, receive_buffer: int | None = None) -> Client:
        """A connection to a balancer, or to a URL."""
        url = lb if isinstance(lb, str) else lb.url
        host, port = url.removeprefix("http://").rsplit(":", 1)
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client = Client(sock)
        self._clients.append(client)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        return client

    async def line(
        self,
        *,
        origin_buffer: int | None = None,
        client_buffer: int | None = None,
        **options: Any,
    ) -> tuple[LoadBalancer, Client, Origin]:
        """A client, a balancer and an origin; `options` are the balancer's."""
        origin = await self.origin(receive_buffer=origin_buffer)
        lb = await self.balancer(origin, **options)
        return lb, await self.client(lb, receive_buffer=client_buffer), origin

    async def asked(
        self, target: str = "/", *fields: str, version: str = "1.1", **options: Any
    ) -> tuple[LoadBalancer, Client, AtOrigin]:
        """A `line` on which a GET has reached the origin."""
        lb, client, origin = await self.line(**options)
        await client.get(target, *fields, version=version)
        at_origin, _ = await origin.accept_request()
        return lb, client, at_origin

    async def begun(self, head: bytes, **options: Any) -> tuple[LoadBalancer, Client, AtOrigin]:
        """A `line` on which a request's head has reached the origin, and its body is to come."""
        lb, client, origin = await self.line(**options)
        await client.send(head)
        at_origin = await origin.accept()
        await at_origin.read_head()
        return lb, client, at_origin

    async def with_backup(self, **options: Any) -> tuple[LoadBalancer, Client, Origin, Origin]:
        """A client, and two origins: by hand, and one that answers when the first one can't."""
        first, second = await self.origin(), await self.serving()
        lb = await self.balancer(first, second, each=FIRST_THEN_SECOND, **options)
        return lb, await self.client(lb), first, second

    async def clients(self, lb: LoadBalancer, count: int) -> list[Client]:
        return [await self.client(lb) for _ in range(count)]

    async def logged(self, lb: LoadBalancer, count: int = 1) -> list[LogLine]:
        """The lines of the access log, once there are `count`; more of them fail the test."""
        path = next(path for balancer, _, path in self._balancers if balancer is lb)
        await eventually(lambda: _count(path) >= count, f"{count} lines in the access log")
        await turns(20)
        lines = [LogLine(line) for line in path.read_text().splitlines()]
        assert len(lines) == count, lines
        return lines

    async def log_line(self, lb: LoadBalancer) -> LogLine:
        """The only line of the access log."""
        return (await self.logged(lb))[0]


def _count(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def is_quiet(lb: LoadBalancer, context: Any) -> bool:
    """True if no request, no connection and no wait is left."""
    return (
        all(
            not pool.waiting and all(s.in_flight == 0 == s.queued for s in pool.servers)
            for pool in lb.pools.values()
        )
        and not context.clients
        and not context.upstreams
    )


def pool_of(lb: LoadBalancer) -> Pool:
    return lb.pools["agents"]


def server_of(lb: LoadBalancer, number: int = 1) -> Server:
    return pool_of(lb).servers[number - 1]


def in_flight(lb: LoadBalancer) -> list[int]:
    return [server.in_flight for server in pool_of(lb).servers]


def unsent(lb: LoadBalancer) -> int:
    """Bytes that the balancer holds for all its peers."""
    context = lb._context
    assert context is not None
    return sum(
        connection.transport.get_write_buffer_size()
        for connection in (*context.clients, *context.upstreams)
    )


class _Noise(logging.Handler):
    """Whatever is logged as a warning or worse is a problem, but for passive failures: many tests
    make servers fail."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        if record.module == "failures":  # hermes_lb.backends.failures
            return
        text = record.getMessage()
        if record.exc_info:
            text += f" {record.exc_info[1]!r}"
        self._problems.append(f"{record.name} logs: {text}")
