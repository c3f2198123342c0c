"""A real balancer between a client and an origin, for one case after the other.

All of it runs in one thread and one event loop, so that "nothing more will happen" can be decided
and not guessed: the balancer has read all that was sent (`Meter` counts), and by its own account it
waits for a peer that has nothing more to say. Nothing sleeps, and no case waits for a timeout.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from unittest.mock import patch

import uvloop

from hermes_lb.proxy import phases
from hermes_lb.proxy.http1.client import ClientConnection
from hermes_lb.proxy.http1.upstream import UpstreamConnection
from hermes_lb.proxy.http2.connection import Http2Connection
from tests.differential.peers import MARKER_REQUEST, Answering, Answers, Peer, Scripted
from tests.differential.response_referees import FIN, OPEN
from tests.support.stage import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

_STILL = 3  # loop iterations in which nothing moved; deferred work of the balancer takes one

# After these seconds and iterations without any movement there will be none: only the kernel could
# be slow here. (A process that was stopped has seconds, but no iterations.)
_PATIENCE = 3.0
_HOPELESS = 200
_T = TypeVar("_T")


@dataclass
class RequestOutcome:
    """What became of the bytes of one client's connection.

    The origin also got the marker from another client behind this one, over whatever connections
    this one has left; `streams`, `order` and `methods` have it last.
    """

    sent: bytes
    early: int = 0  # the status with which the origin answered heads, if it did not wait for bodies
    refuses: int = 0  # that with which it answered what expects a 100
    reused: dict[str, bytes] = field(default_factory=dict)  # behind what; see `Answering`
    streams: list[bytes] = field(default_factory=list)  # that the origin got, by connection
    order: list[int] = field(default_factory=list)  # the connection of each request's head
    methods: list[bytes] = field(default_factory=list)  # of what the origin answered
    statuses: list[int] = field(default_factory=list)  # of its answers
    answers: bytes = b""  # that the client got
    is_closed: bool = False  # by the balancer, before the client did
    witness: bytes = b""  # what the other client got
    trouble: list[str] = field(default_factory=list)

    @property
    def is_early(self) -> bool:
        """The origin may have answered a part of a request."""
        return self.early > 0 or self.refuses > 0


@dataclass
class ResponseOutcome:
    """What became of the bytes that an origin answered with."""

    request: bytes
    sent: bytes  # by the origin
    ending: str = OPEN  # by the origin, if the balancer waited for more
    received: bytes = b""  # by the client, with the answer to the marker if `is_kept`
    closed: str = OPEN  # how the balancer ended the client's connection
    is_kept: bool = False  # it did not, and the client has asked for the marker
    witness: bytes = b""  # what another client got behind this one, when it asked for the marker
    trouble: list[str] = field(default_factory=list)


class Meter:
    """How many bytes balancers have read, of clients and of servers."""

    def __init__(self) -> None:
        self.of_clients = 0
        self.of_servers = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """As long as this lasts, all balancers of the process are metered."""
        from_client, from_server = ClientConnection.data_received, UpstreamConnection.data_received
        by_http2 = Http2Connection.data_received

        def of_client(connection: ClientConnection, data: bytes) -> None:
            self.of_clients += len(data)
            from_client(connection, data)

        def of_http2_client(connection: Http2Connection, data: bytes) -> None:
            self.of_clients += len(data)
            by_http2(connection, data)

        def of_server(connection: UpstreamConnection, data: bytes) -> None:
            self.of_servers += len(data)
            from_server(connection, data)

        with (
            patch.object(ClientConnection, "data_received", of_client),
            patch.object(Http2Connection, "data_received", of_http2_client),
            patch.object(UpstreamConnection, "data_received", of_server),
        ):
            yield


class Stuck(Exception):
    """Nothing moves any more, although the balancer does not wait for the side that it should."""


class Arena:
    """A balancer with an event loop of its own; a context manager for synchronous code."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._loop = uvloop.new_event_loop()
        self._running = AsyncExitStack()
        self._meter = Meter()
        self._client = Peer()
        self._connections: list[Peer] = []  # that the origin has accepted in this case
        self._said_before = 0  # by origins, before this case
        self._accept: Callable[[], Peer] = Scripted
        self._stage: Stage
        self._port = 0
        self._context: Any

    def __enter__(self) -> Self:
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run(self._running.aclose())
        finally:
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run_until_complete(work)

    async def _start(self) -> None:
        enter = self._running.enter_context
        folder = enter(tempfile.TemporaryDirectory())
        enter(self._meter.attached())
        self._stage = await self._running.enter_async_context(Stage(Path(folder)))
        listener = socket.create_server(("127.0.0.1", 0))
        origin = await self._loop.create_server(self._accepted, sock=listener)
        self._running.callback(origin.close)
        port = listener.getsockname()[1]
        # A server that answers badly is not taken out: the next case wants it again.
        lb = await self._stage.balancer(
            port, server={"max_fails": 0}, frontend={"trace": True, "http2": True}
        )
        self._port = int(lb.url.rpartition(":")[2])
        self._context = lb._context

    def _accepted(self) -> Peer:
        connection = self._accept()
        self._connections.append(connection)
        return connection

    # The two kinds of cases.

    def requests(
        self,
        pieces: Sequence[bytes],
        *,
        early: int = 0,
        refuses: int = 0,
        behind: bytes = b"",
    ) -> RequestOutcome:
        """A client sends these; an origin answers what it gets: see `Answers`.

        `behind`: what the client sends when the balancer has done with them, if it is not closed.
        """
        return self._run(self._requests(pieces, Answers(early, refuses), behind))

    async def _requests(
        self, pieces: Sequence[bytes], answers: Answers, behind: bytes
    ) -> RequestOutcome:
        order: list[Answering] = []
        self._accept = lambda: Answering(answers, order.append)
        outcome = RequestOutcome(b"".join(pieces), answers.early, answers.refuses)
        async with self._case(outcome):
            client = self._client
            for piece in pieces:
                await self._send(client, [piece], self._of_clients)
                if outcome.is_early:  # or it would be chance what has been sent before the answer
                    await self._settle(self._is_told, "the early answer is not read")
            for peer in dict.fromkeys(order):
                peer.pay()
            await self._settle(self._awaits_client, "the balancer has all of it, and goes on")
            outcome.is_closed = client.ending != OPEN
            if behind and not outcome.is_closed:
                await self._send(client, [behind], self._of_clients)
                await self._settle(self._awaits_client, "what comes behind is not answered")
        outcome.answers = bytes(client.received)
        outcome.streams = [bytes(peer.received) for peer in self._connections]
        outcome.order = [self._connections.index(peer) for peer in order]
        outcome.reused = {
            peer.reused_behind: bytes(peer.received) for peer in order if peer.reused_behind
        }
        outcome.methods = answers.methods
        outcome.statuses = answers.statuses
        return outcome

    def response(
        self, request: bytes, pieces: Sequence[bytes], ending: str = FIN
    ) -> ResponseOutcome:
        """A client sends `request`; the origin answers with these, and ends if that is awaited."""
        return self._run(self._response(request, pieces, ending))

    async def _response(
        self, request: bytes, pieces: Sequence[bytes], ending: str
    ) -> ResponseOutcome:
        self._accept = Scripted
        outcome = ResponseOutcome(request, b"".join(pieces))
        async with self._case(outcome):
            client = self._client
            client.send(request)
            await self._until(lambda: self._has_come(request), "the request did not come")
            origin = self._connections[0]
            await self._send(origin, pieces, self._of_servers)
            await self._settle(self._awaits_origin, "the balancer has all of it, and goes on")
            if not self._is_idle():
                outcome.ending = ending
                origin.end(ending)
                await self._settle(self._is_idle, "the server has gone, and the balancer goes on")
            outcome.is_kept = any(not c.is_closing for c in self._context.live.clients)
            if outcome.is_kept:
                await self._send(client, [MARKER_REQUEST], self._of_clients)
                await self._settle(self._is_idle, "the marker was not answered")
            else:
                await self._until(lambda: client.ending != OPEN, "the client was not closed")
                outcome.closed = client.ending
        outcome.received = bytes(client.received)
        return outcome

    def _has_come(self, request: bytes) -> bool:
        """To the origin; heads are not the same on both sides, but their ends are."""
        return any(peer.received.endswith(request[-3:]) for peer in self._connections)

    # What both have in common.

    @asynccontextmanager
    async def _case(self, outcome: RequestOutcome | ResponseOutcome) -> AsyncIterator[None]:
        """A client's connection; behind it nothing is left, and all that was sent has come.

        All end by a FIN, first the clients, then the origin, so that they get what was on its way.
        """
        self._connections = []
        self._said_before = self._meter.of_servers
        await self._connect()
        try:
            yield
            await self._client_leaves()
            outcome.witness = await self._witness()
        except Stuck as problem:
            outcome.trouble.append(str(problem))
        try:
            await self._client_leaves()
            await self._origin_leaves()
        except Stuck as problem:
            outcome.trouble.append(str(problem))
        outcome.trouble += self._stage.problems
        self._stage.problems.clear()

    async def _connect(self) -> None:
        _, self._client = await self._loop.create_connection(Peer, "127.0.0.1", self._port)

    async def _witness(self) -> bytes:
        """Another client asks for the marker -> what it gets."""
        await self._connect()
        await self._send(self._client, [MARKER_REQUEST], self._of_clients)
        await self._settle(self._is_idle, "the next client is not answered")
        await self._client_leaves()
        return bytes(self._client.received)

    async def _client_leaves(self) -> None:
        client, context = self._client, self._context
        client.end()
        await self._until(
            lambda: not context.live.clients and client.ending != OPEN, "the client is not let go"
        )
        client.transport.abort()
        await self._until(lambda: client.is_lost, "the client's end is not told")

    async def _origin_leaves(self) -> None:
        connections, context = self._connections, self._context
        for peer in connections:
            peer.end()
        await self._until(
            lambda: not context.live.upstreams and all(peer.ending != OPEN for peer in connections),
            "the server is not let go",
        )
        for peer in connections:
            peer.transport.abort()
        await self._until(
            lambda: all(peer.is_lost for peer in connections), "the server's end is not told"
        )

    def _of_clients(self) -> int:
        return self._meter.of_clients

    def _of_servers(self) -> int:
        return self._meter.of_servers

    async def _send(self, peer: Peer, pieces: Sequence[bytes], read: Callable[[], int]) -> None:
        """Each piece once the balancer has read the one before, or does not want it any more."""
        due = read()
        for piece in pieces:
            due += len(piece)
            peer.send(piece)
            await self._until(
                lambda: read() >= due or peer.ending != OPEN,  # noqa: B023 - is awaited here
                "the balancer does not read",
            )

    # What the balancer waits for, by its own account.

    def _exchanges(self) -> list[Any]:
        return [each for client in self._context.live.clients for each in client.exchanges()]

    def _is_idle(self) -> bool:
        return not self._exchanges()

    def _awaits_client(self) -> bool:
        return all(
            e.letter in "HD" and e.upload is not None and e.upload.phase == phases.SEND
            for e in self._exchanges()
        )

    def _is_told(self) -> bool:
        """The origin has what was sent to it, and the balancer has read what that answered."""
        return self._meter.of_servers >= self._said_before + sum(
            peer.sent for peer in self._connections
        ) and all(e.upstream is not None for e in self._exchanges())

    def _awaits_origin(self) -> bool:
        return all(e.letter in "HD" for e in self._exchanges())

    async def _until(self, condition: Callable[[], object], problem: str) -> None:
        await self._settle(condition, problem, still=1)

    async def _settle(
        self, condition: Callable[[], object], problem: str, still: int = _STILL
    ) -> None:
        """Until `condition()` is true, and has been for some turns in which nothing moved.

        Raises Stuck if it is not, and nothing moves any more.
        """
        moved, held, turns, since = self._movement(), 0, 0, self._loop.time()
        while True:
            held = held + 1 if condition() else 0
            if held >= still:
                return
            await asyncio.sleep(0)
            turns += 1
            if (movement := self._movement()) != moved:
                moved, held, turns, since = movement, 0, 0, self._loop.time()
            elif turns > _HOPELESS and self._loop.time() - since > self._patience:
                raise Stuck(f"{problem}: {self._exchanges()}")

    def _movement(self) -> tuple[int, ...]:
        peers = (self._client, *self._connections)
        return (
            self._meter.of_clients,
            self._meter.of_servers,
            len(peers),
            *(len(peer.received) for peer in peers),
            *(peer.ending != OPEN for peer in peers),
        )
