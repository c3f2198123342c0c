"""Fake transports on both sides of a real data path, and a clock that the test moves.

    async with Line(timeouts={"server": 100}) as line:
        await line.client.sends(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await line.server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await line.passes(101)

Time passes only in `passes`, which sweeps at its end. A transport's peer that does not read is
`stuck`; it takes bytes by `takes`.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Self, cast

import pytest

from hermes_lb.backends.dialing import ServerDialer
from hermes_lb.config import Config
from hermes_lb.plane import DataPlane

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.backends.pool import Pool
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.http1.client import ClientConnection
    from hermes_lb.proxy.http1.upstream import UpstreamConnection

#: Bytes: the water marks of transports, in both loops.
HIGH, LOW = 64 * 1024, 16 * 1024


async def turns(count: int = 12) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Wire(asyncio.Transport):
    """One connection of the balancer, and its peer. `got`: what the peer has read.

    `kernel`: what the peer does with it is in the kernel, and the loop does not report it.
    """

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        # The kernel is asked whether the peer has left.
        self._sockets = socket.socketpair()
        self._sockets[0].setblocking(False)
        self.kernel = self._sockets[1]
        super().__init__({"peername": ("192.0.2.1", 50000), "socket": self._sockets[0]})
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        self._is_over = False
        self._reads = True
        self._arrived: list[bytes] = []
        self._unsent = bytearray()
        self._is_above = False
        self.got = bytearray()
        self.is_stuck = False
        self.is_aborted = False
        protocol.connection_made(self)

    # The peer.

    async def sends(self, data: bytes) -> None:
        """It arrives when it is read, after a few loop iterations."""
        self._arrived.append(data)
        self._deliver()
        await turns()

    async def takes(self, size: int) -> None:
        """The peer reads some of what is unsent, if the connection is still there."""
        self.got += self._unsent[:size]
        del self._unsent[:size]
        if self._is_above and not self._is_over and len(self._unsent) <= LOW:
            self._is_above = False
            self._protocol.resume_writing()
        self._end_if_done()
        await turns()

    async def leaves(self) -> None:
        """The connection is lost."""
        self.abort()
        await turns()

    async def ends(self) -> None:
        """The peer sends FIN."""
        if not self._protocol.eof_received():
            self.close()
        await turns()

    @property
    def is_open(self) -> bool:
        return not self._is_over

    # What the data path calls.

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def write(self, data: Any) -> None:
        if not self.is_stuck:
            self.got += data
            return
        self._unsent += data
        if len(self._unsent) > HIGH and not self._is_above:
            self._is_above = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_reading(self) -> bool:
        return self._reads

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        while self._arrived and self._reads and not self._is_closing:
            self._protocol.data_received(self._arrived.pop(0))

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True
        self._end_if_done()

    def abort(self) -> None:
        self._is_closing = self.is_aborted = True
        self._unsent.clear()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._is_closing and not self._is_over and not self._unsent:
            self._is_over = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def forget(self) -> None:
        for sock in self._sockets:
            sock.close()


class Line:
    """One client; `servers` are the connections to servers, in the order of their dials.

    `server`: what holds for each of the configured servers, of which there are `count`.
    """

    def __init__(
        self, *, count: int = 1, server: dict[str, Any] | None = None, **sections: Any
    ) -> None:
        backend = sections.pop("backend", {})
        listed = [
            {"name": f"s{i}", "address": f"127.0.0.1:{i}", **(server or {})}
            for i in range(1, count + 1)
        ]
        frontend = {"name": "f", "bind": "127.0.0.1:0", "default_backend": "b"}
        self._config = Config.model_validate(
            {
                "admin": {"enabled": False},
                "log": {"access": "off"},
                "frontends": [{**frontend, **sections.pop("frontend", {})}],
                "backends": {"b": {"servers": listed, **backend}},
                **sections,
            }
        )
        self._patch = pytest.MonkeyPatch()
        self.now = 1000.0
        self.may_dial = asyncio.Event()
        self.may_dial.set()
        self.refuses = False
        self.servers: list[Wire] = []
        self.failures: list[str] = []  # of servers, and why
        self.ends: list[str] = []  # the terminations of exchanges that did not end well
        self.client: Wire
        self._clients: list[Wire] = []
        self.connection: ClientConnection

    async def __aenter__(self) -> Self:
        self._patch.setattr("hermes_lb.proxy.deadlines.Sweep.start", lambda _: None)
        self._patch.setattr(ServerDialer, "dial", self._dial)
        self.plane = DataPlane(self._config)
        await self.plane.open()
        self.pool.on_failed = lambda *given: self.failures.append(given[-1])
        await self.plane.listen()
        self.context: Context = self.plane.context
        self._log = self.context.log.access_log
        self._log.enabled, self._log.write = True, self._ended
        self.context.log.recorder.line = lambda record: record.termination[:2]
        self.context.clock = lambda: self.now
        self.client = self.accepts()
        self.connection = cast("ClientConnection", self.client._protocol)
        return self

    def accepts(self) -> Wire:
        """Another client."""
        self._clients.append(Wire(self.plane.frontends[0].listeners[0]._connection()))
        return self._clients[-1]

    async def __aexit__(self, *_: object) -> None:
        self._log.enabled = False
        await self.plane.stop()
        self._patch.undo()
        for wire in (*self._clients, *self.servers):
            wire.forget()

    def _ended(self, termination: str) -> None:
        if termination != "--":
            self.ends.append(termination)

    async def _dial(
        self, _: object, factory: Callable[[], UpstreamConnection], __: object
    ) -> UpstreamConnection:
        await self.may_dial.wait()
        if self.refuses:
            raise ConnectionRefusedError
        upstream = factory()
        self.servers.append(Wire(upstream))
        return upstream

    @property
    def server(self) -> Wire:
        """The connection that was made last."""
        return self.servers[-1]

    @property
    def pool(self) -> Pool:
        return self.plane.pools["b"]

    async def passes(self, seconds: float) -> None:
        """Time passes, and then deadlines are looked at."""
        self.now += seconds
        self.context.batch.flush()
        self.connection.sweep(self.now)
        await turns()
