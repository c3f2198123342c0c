"""A server by HTTP/2, by hand or by itself: h2 (hyper) reads and writes the frames, or a test does.

h2 is the oracle: it refuses what the balancer must not send. Bytes of bodies are credited as they
come, but those of the streams in `stuck`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import h2.settings

from tests.support.http_peer import Ended

if TYPE_CHECKING:
    from tests.support.http_peer import AtOrigin
    from tests.support.origin import Origin
    from tests.support.stage import Stage

Fields = list[tuple[str, str]]
SETTINGS_OF = h2.settings.SettingCodes


class Asked:
    """A request."""

    def __init__(self, number: int, fields: Fields) -> None:
        self.number = number
        self.fields = fields
        self.body = bytearray()
        self.trailers: Fields | None = None
        self.has_ended = False
        self.reset_with: int | None = None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1, values
        return values[0] if values else None


class Http2AtOrigin:
    """A connection that an origin has accepted. `asked`: by the number of the stream."""

    def __init__(self, peer: AtOrigin, settings: dict[int, int] | None = None) -> None:
        self.peer = peer
        configured = h2.config.H2Configuration(
            client_side=False,
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.http2 = h2.connection.H2Connection(configured)
        # Values that are set later are not sent by `initiate_connection`.
        self.http2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={SETTINGS_OF.MAX_CONCURRENT_STREAMS: 100, **(settings or {})},
        )
        self.http2.initiate_connection()
        self.http2.increment_flow_control_window(2**24)
        self.asked: dict[int, Asked] = {}
        self.new: list[Asked] = []
        self.stuck: set[int] = set()
        self.pings = 0
        self.goaways: list[h2.events.ConnectionTerminated] = []

    async def flush(self) -> None:
        if data := self.http2.data_to_send():
            await self.peer.send(data)

    async def read(self) -> None:
        """Take the bytes that have come, at least one. Raises Ended."""
        for event in self.http2.receive_data(await self.peer.read_some()):
            self._take(event)
        await self.flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                one = self.asked[event.stream_id] = Asked(event.stream_id, event.headers)
                self.new.append(one)
            case h2.events.DataReceived():
                self.asked[event.stream_id].body += event.data
                if event.stream_id not in self.stuck and event.flow_controlled_length:
                    self.http2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
            case h2.events.TrailersReceived():
                self.asked[event.stream_id].trailers = event.headers
            case h2.events.StreamEnded():
                self.asked[event.stream_id].has_ended = True
            case h2.events.StreamReset():
                self.asked[event.stream_id].reset_with = int(event.error_code or 0)
            case h2.events.PingReceived():
                self.pings += 1
            case h2.events.ConnectionTerminated():
                self.goaways.append(event)

    async def read_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.read()

    async def read_to_end(self) -> None:
        with suppress(Ended):
            while True:
                await self.read()

    async def begun(self) -> Asked:
        """The next request whose head has come."""
        await self.flush()
        await self.read_until(lambda: bool(self.new))
        return self.new.pop(0)

    async def request(self) -> Asked:
        """The next request, with all of its body."""
        one = await self.begun()
        await self.read_until(lambda: one.has_ended)
        return one

    async def was_reset(self, one: Asked) -> int:
        """The code."""
        await self.read_until(lambda: one.reset_with is not None)
        assert one.reset_with is not None
        return one.reset_with

    async def head(
        self, one: Asked, *fields: tuple[str, str], status: int = 200, ends: bool = False
    ) -> None:
        self.http2.send_headers(one.number, [(":status", str(status)), *fields], end_stream=ends)
        await self.flush()

    async def data(self, one: Asked, data: bytes, *, ends: bool = False) -> None:
        """As far as the windows allow it, and more as they open."""
        while data or ends:
            room = min(
                self.http2.local_flow_control_window(one.number),
                self.http2.max_outbound_frame_size,
                len(data),
            )
            if data and not room:
                await self.read()
                continue
            part, data = data[:room], data[room:]
            self.http2.send_data(one.number, part, end_stream=ends and not data)
            if not data:
                break
            await self.flush()
        await self.flush()

    async def trailers(self, one: Asked, *fields: tuple[str, str]) -> None:
        self.http2.send_headers(one.number, fields, end_stream=True)
        await self.flush()

    async def respond(self, one: Asked, body: bytes = b"", *fields: tuple[str, str]) -> None:
        await self.head(one, ("content-length", str(len(body))), *fields, ends=not body)
        if body:
            await self.data(one, body, ends=True)

    async def reset(self, one: Asked, code: int) -> None:
        self.http2.reset_stream(one.number, code)
        await self.flush()

    async def go_away(self, last: int, code: int = 0) -> None:
        """h2 sends nothing after its own GOAWAY, so this one is written by hand."""
        await self.peer.send(
            (8).to_bytes(3) + b"\x07\x00" + bytes(4) + last.to_bytes(4) + code.to_bytes(4)
        )


async def http2_at(origin: Origin, **settings: int) -> Http2AtOrigin:
    """The next connection to `origin`. `settings`: by their names in RFC 9113, in lower case."""
    numbers = {SETTINGS_OF[name.upper()]: value for name, value in settings.items()}
    connection = Http2AtOrigin(await origin.accept(), numbers)
    await connection.flush()
    return connection


Handler = Callable[[Http2AtOrigin, Asked], Awaitable[None]]


async def serving_http2(stage: Stage, handler: Handler, **settings: int) -> Origin:
    """An origin that passes each whole request to `handler`, one after the other."""
    origin = await stage.origin()

    async def serve(connection: Http2AtOrigin) -> None:
        with suppress(Ended, OSError):
            while True:
                await handler(connection, await connection.request())

    async def accept() -> None:
        while True:
            stage.tasks.spawn(serve(await http2_at(origin, **settings)), name="at origin")

    stage.tasks.spawn(accept(), name="origin")
    return origin
