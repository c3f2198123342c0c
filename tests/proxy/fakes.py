"""Both sides of an exchange as fakes: no socket, no bytes of HTTP on a wire, no clock.

    with Scene() as scene:
        exchange = scene.ask(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        await scene.dialled()
        scene.server.answers(200, b"hello")
        assert scene.client.got == ...

The calls of a fake are noted in `calls`, in order.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from hermes_lb.backends import FrontendCounters
from hermes_lb.config import Config
from hermes_lb.errors import ConnectFailed
from hermes_lb.http import make_body
from hermes_lb.plane import request_log
from hermes_lb.proxy.admit import admit
from hermes_lb.proxy.context import Context
from hermes_lb.proxy.destination import Destination
from hermes_lb.proxy.exchange import Exchange
from hermes_lb.proxy.ports import ConnectionPool, Downstream, Entrance, Peer, ServerSide, TunnelEnd
from hermes_lb.proxy.record import record_exchange
from hermes_lb.proxy.select import Backend
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from hermes_lb.backends import Server
    from hermes_lb.http import Body, RequestHead, ResponseHead
    from hermes_lb.proxy.local_replies import LocalReply
    from hermes_lb.proxy.ports import ResponseSink, TunnelSink
    from hermes_lb.proxy.stream_rules import StreamRules

    Calls = list[tuple[Any, ...]]


class FakeEntrance(Entrance):
    """A frontend with one backend."""

    def __init__(self, backend: Backend, rules: StreamRules | None) -> None:
        self.name = "f"
        self.counters = FrontendCounters()
        self.redirect = None
        self.hsts = b""
        self.via = (b"1.0 here", b"1.1 here")
        self.pseudonym = b"here"
        self.allows_trace = False
        self.is_stopped = False
        self.router = self
        self._destination = Destination(backend, True, rules)

    def route(self, head: RequestHead) -> Destination:
        return self._destination


class FakeEnd(TunnelEnd):
    """One end of a tunnel."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.has_ended = False

    def start(self, other: TunnelEnd, first: bytes) -> None:
        self.calls.append(("start", first))

    def close(self, patience: float) -> None:
        self.calls.append(("close",))

    def can_half_close(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.calls.append(("write_eof",))


class FakeClient(Downstream):
    """The client's side. `got`: bytes of the response; `is_slow`: it reads nothing.

    `is_http2`: bodies are sent without chunks.
    """

    def __init__(self, entrance: Entrance, now: float) -> None:
        self.peer = Peer(entrance, b"http")
        self.peer.address = "192.0.2.1"
        self.received_at = now
        self.is_http2 = False
        self.is_writing_paused = False
        self.calls: Calls = []
        self.got = b""
        self.taken = 0

    @property
    def unsent(self) -> int:
        return len(self.got) - self.taken if self.is_writing_paused else 0

    @property
    def can_insert(self) -> bool:
        return True

    @property
    def takes_chunks(self) -> bool:
        return not self.is_http2

    def body_for(self, head: ResponseHead, length: int) -> Body:
        return make_body(length, to_http11=not self.is_http2)

    def send_informational(self, head: ResponseHead) -> int:
        self.calls.append(("informational", head.status))
        return 0

    def send_head(
        self,
        head: ResponseHead,
        fields: bytes,
        length: int,
        may_keep: bool,
        first: bytes,
    ) -> int:
        self.calls.append(("head", head.status, length, may_keep))
        self.got += first
        return len(first)

    def send(self, data: bytes) -> None:
        self.got += data

    send_data = send

    def reply(self, reply: LocalReply, *, may_keep: bool) -> int:
        self.calls.append(("reply", reply.status, may_keep))
        return len(reply.body)

    def pause_reading(self) -> None:
        self.calls.append(("pause",))

    def resume_reading(self) -> None:
        self.calls.append(("resume",))

    def refuse_rest(self) -> None:
        self.calls.append(("refuse_rest",))

    def done(self, now: float, is_read: bool) -> None:
        self.calls.append(("done", is_read))

    def cut_off(self, termination: str) -> None:
        self.calls.append(("cut_off", termination))

    def open_tunnel(self, tunnel: TunnelSink) -> TunnelEnd:
        return FakeEnd(self.calls)


class FakeServerSide(ServerSide):
    """The server's side: `got` has the request; `answers` and `fails` are the server's doing."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_reused = False
        self.is_writing_paused = False
        self.sink: ResponseSink | None = None
        self.body: Body | None = None
        self.calls: Calls = []
        self.got = b""

    @property
    def unsent(self) -> int:
        return 0

    @property
    def has_unwritten(self) -> bool:
        return False

    def send_request(self, sink: ResponseSink, data: bytes, upload: object = None) -> None:
        self.sink, self.body = sink, None
        self.got += data

    def send(self, data: bytes) -> None:
        self.got += data

    def expect(self, body: Body) -> None:
        self.body = body

    def pass_to(self, sink: ResponseSink) -> None:
        self.sink = sink

    def pause_reading(self) -> None:
        self.calls.append(("pause",))

    def resume_reading(self) -> None:
        self.calls.append(("resume",))

    def hold(self, until: Awaitable[object]) -> None:
        self.calls.append(("hold",))

    def give_back(self, now: float, is_clean: bool) -> None:
        self.calls.append(("give_back", is_clean))

    def abort(self) -> None:
        self.calls.append(("abort",))

    def open_tunnel(self, tunnel: TunnelSink) -> TunnelEnd:
        return FakeEnd(self.calls)


class FakePool(ConnectionPool):
    """Dials wait until the scene lets them."""

    sends_client_address = False
    speaks_http2 = False

    def __init__(self, server: Server, scene: Scene) -> None:
        self._server = server
        self._scene = scene
        self.kept: list[FakeServerSide] = []

    def take_idle(
        self, now: float, *, fresh_only: bool, check_now: bool = True
    ) -> ServerSide | None:
        return self.kept.pop() if self.kept else None

    async def dial(self, peers: object, *, tunnel: bool = False) -> ServerSide:
        await self._scene.may_dial.wait()
        if self._server.name in self._scene.refusing:
            raise ConnectFailed(f"{self._server.name} refused")
        side = FakeServerSide(self._server)
        self._scene.sides.append(side)
        return side

    def retire(self) -> None:
        pass


class Scene:
    """One backend behind one frontend, and a clock that the test moves."""

    def __init__(
        self,
        *,
        servers: int = 1,
        places: int = 0,
        rules: StreamRules | None = None,
        **backend: Any,
    ) -> None:
        """`places`: the `max_connections` of each server. `rules`: of its streams."""
        self._rules = rules
        listed = [
            {"name": f"s{i}", "address": f"127.0.0.1:{i}", "max_connections": places}
            for i in range(1, servers + 1)
        ]
        self.config = Config.model_validate(
            {
                "admin": {"enabled": False},
                "log": {"access": "off"},
                "frontends": [{"name": "f", "bind": "127.0.0.1:0", "default_backend": "b"}],
                "backends": {"b": {"servers": listed, **backend}},
            }
        )
        self.now = 1000.0
        self.may_dial = asyncio.Event()
        self.may_dial.set()
        self.refusing: set[str] = set()
        self.sides: list[FakeServerSide] = []
        self.ends: list[str] = []
        self.client: FakeClient

    async def __aenter__(self) -> Self:
        self.tasks = Tasks()
        loop = asyncio.get_running_loop()
        self.context = Context(
            self.config, loop, request_log(self.config.log), self.tasks, record_exchange
        )
        self.context.clock = lambda: self.now
        self.backend = Backend(
            "b",
            self.config.backends["b"],
            self._pool,
            clock=self.context.clock,
            rng=self.context.rng,
            tasks=self.tasks,
        )
        entrance = FakeEntrance(self.backend, self._rules)
        self.client = FakeClient(entrance, self.now)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.tasks.cancel_all()
        self.context.batch.flush()

    def _pool(self, server: Server, **_: object) -> FakePool:
        return FakePool(server, self)

    @property
    def server(self) -> FakeServerSide:
        """The connection that was dialled last."""
        return self.sides[-1]

    async def ask(self, head: bytes, rest: bytes = b"") -> Exchange:
        """A request whose head has come, and of its body `rest`."""
        parsed = self.context.settings.request_parser.parse(head)
        exchange = Noted(self, parsed)
        if admit(exchange, self.now):
            exchange.bytes_in = len(rest)
            exchange.begin(rest, parsed.length == len(rest), self.now)
        await turns()
        return exchange

    def answer(self, head: bytes, rest: bytes = b"") -> None:
        """The head of the response has come, and of its body `rest`."""
        side = self.server
        assert side.sink is not None
        side.sink.response_head(side, self.context.settings.response_parser.parse(head), rest)

    def data(self, data: bytes) -> None:
        """More of the response's body."""
        side = self.server
        assert side.sink is not None
        assert side.body is not None
        side.sink.response_data(side, side.body, data)


class Noted(Exchange):
    """An exchange whose ends the scene notes."""

    __slots__ = ("_scene",)

    def __init__(self, scene: Scene, head: RequestHead) -> None:
        super().__init__(scene.client, head, scene.context, scene.now)
        self._scene = scene

    def finish(self, termination: str, now: float) -> None:
        super().finish(termination, now)
        self._scene.ends.append(termination)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
