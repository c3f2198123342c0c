"""A real balancer between scripted peers, and what must hold after every test.

    origin = await stage.origin()
    lb = await stage.balancer(origin)
    client = await stage.client(lb)
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    at_origin = await origin.accept()
    request = await at_origin.read_request()
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert (await client.read_response()).body == b"hi"

`line`, `served`, `asked`, `begun` and `with_backup` set the scenes that most tests begin with.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from unittest.mock import patch

from hermes_lb import LoadBalancer
from hermes_lb.observe.access_log import AccessLog
from hermes_lb.tasks import Tasks
from tests.support.http2_spoken import SpokenByHttp2
from tests.support.http_peer import AtOrigin, Client
from tests.support.log_line import LogLine
from tests.support.origin import Handler, Origin, answers
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hermes_lb.backends import Pool, Server
    from tests.support.http_peer import Message

# For `each`: the second server is asked only when the first one can't be.
FIRST_THEN_SECOND: list[dict[str, Any]] = [{}, {"backup": True}]


class Stage:
    """Everything that one test has running; leaving it checks what must hold after every test."""

    def __init__(self, folder: Path, http: str = "1.1") -> None:
        """`http`: the version that clients speak."""
        self.http = http
        self.version = {"1.1": "1.1", "2": "2.0"}[http]  # as Via has it
        self.protocol = f"HTTP/{self.version}"  # as the log has it
        self.tasks = Tasks()
        self.problems: list[str] = []
        self.unlogged = 0  # requests that shall not be in the access log
        self.folder = folder
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

    async def __aexit__(self, *exc: object) -> None:
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
                    f"left behind: {lb.pools}, {context.live.clients}, {context.live.upstreams}"
                )
            await lb.stop()
            if context.live.clients or context.live.upstreams:
                self.problems.append(
                    f"open after stop: {context.live.clients}, {context.live.upstreams}"
                )
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

    async def origin(
        self, *, receive_buffer: int | None = None, port: int = 0, path: Path | None = None
    ) -> Origin:
        """A server that listens on a port of its own, or on that of one that has stopped.

        `path`: at this Unix socket.
        """
        sock = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind(("127.0.0.1", port) if path is None else str(path))
        sock.listen(1000)
        sock.setblocking(False)
        origin = Origin(sock, self.tasks, self.problems)
        self._origins.append(origin)
        return origin

    async def serving(self, handler: Handler | None = None) -> Origin:
        """An origin that answers by itself: with "ok" if nothing else is said."""
        origin = await self.origin()
        origin.serve(handler or answers())
        return origin

    def nobody(self) -> int:
        """A port without a listener: connections are refused."""
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
        return await self.start(
            configuration(
                servers,
                server=server,
                backend=backend,
                frontend=frontend,
                timeouts=timeouts,
                each=each,
                **sections,
            )
        )

    async def start(self, config: dict[str, Any]) -> LoadBalancer:
        if self.http == "2":
            config["frontends"] = [{**each, "http2": True} for each in config["frontends"]]
        path = self.folder / f"access-{len(self._balancers)}.log"
        defaults = {"admin": {"enabled": False}, "log": {"access": str(path)}}
        # Tests wait for lines of the log; it need not be a quarter of a second each time.
        with patch("hermes_lb.plane.AccessLog", partial(AccessLog, flush_every=0.01)):
            lb = LoadBalancer({**defaults, **config})
            await lb.start()
        self._balancers.append((lb, lb._context, path))
        return lb

    async def client(
        self, lb: LoadBalancer | str, *, receive_buffer: int | None = None, source: str = ""
    ) -> Client:
        """A connection to a balancer, or to a URL; `source`: from this address, e.g. 127.0.0.2."""
        speaks_http2 = self.http == "2" and not isinstance(lb, str)  # those of admin, or with TLS
        url = lb if isinstance(lb, str) else lb.url
        host, port = url.removeprefix("http://").rsplit(":", 1)
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            sock.bind((source, 0))
        client = SpokenByHttp2(sock) if speaks_http2 else Client(sock)
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

    async def served(
        self, handler: Handler | None = None, **options: Any
    ) -> tuple[LoadBalancer, Client, Origin]:
        """The same, with an origin that answers by itself, as in `serving`."""
        origin = await self.serving(handler)
        lb = await self.balancer(origin, **options)
        return lb, await self.client(lb), origin

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

    async def ask(self, lb: LoadBalancer, *fields: str, target: str = "/") -> Message:
        """A GET on a connection of its own -> the response."""
        client = await self.client(lb)
        answer = await client.ask(target, *fields)
        client.close()
        return answer

    async def agents(self, count: int) -> list[Origin]:
        """Origins that answer with their names: agent1, agent2, ..."""
        return [await self.serving(answers(b"agent%d" % n)) for n in range(1, count + 1)]

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


def configuration(
    targets: Sequence[Origin | int],
    *,
    server: dict[str, Any] | None = None,
    backend: dict[str, Any] | None = None,
    frontend: dict[str, Any] | None = None,
    timeouts: dict[str, Any] | None = None,
    each: list[dict[str, Any]] | None = None,
    **sections: Any,
) -> dict[str, Any]:
    """Of one before these servers, or ports; the options are those of `Stage.balancer`."""
    servers = [
        {
            "name": f"agent{i}",
            "address": f"127.0.0.1:{target}" if isinstance(target, int) else target.address,
            **(server or {}),
            **(each[i - 1] if each else {}),
        }
        for i, target in enumerate(targets, 1)
    ]
    public = {"name": "public", "bind": "127.0.0.1:0", "default_backend": "agents"}
    return {
        "timeouts": timeouts or {},
        "frontends": [{**public, **(frontend or {})}],
        **sections,
        "backends": {
            "agents": {"servers": servers, **(backend or {})},
            **sections.get("backends", {}),
        },
    }


def _count(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def is_quiet(lb: LoadBalancer, context: Any) -> bool:
    """True if no request, no connection and no wait is left."""
    gateway = context.turns
    return (
        all(
            not pool.queue_length and all(s.in_flight == 0 == s.queued for s in pool.servers)
            for pool in lb.pools.values()
        )
        and not context.live.clients
        and not context.live.upstreams
        and not (gateway and (gateway._followers or gateway._abandoned))
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
        for connection in (*context.live.clients, *context.live.upstreams)
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
