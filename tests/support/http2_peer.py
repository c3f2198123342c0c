"""A client of HTTP/2 on a bare socket: h2 (hyper) reads and writes the frames, or a test does.

h2 is the oracle: it refuses what the balancer must not send. Nothing is sent or credited that the
test does not ask for, except for acknowledgements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import h2.events

from tests.support.http2_frames import ClientFrames
from tests.support.http_peer import Ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.http_peer import Client

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: A SETTINGS frame without settings.
SETTINGS = bytes(3) + b"\x04" + bytes(5)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113 section 4.1."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def head_frame(stream: int, fields: list[tuple[bytes, bytes]], *, ends: bool) -> bytes:
    """HEADERS; its fields are literal, each shorter than 127 bytes, so no table is changed."""
    literal = (b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields)
    return frame(1, 4 | ends, stream, b"".join(literal))


class Answer(NamedTuple):
    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        values = [value for key, value in self.fields if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None


class StreamWasReset(Exception):
    def __init__(self, code: int, received: bytes) -> None:
        super().__init__(f"error code {code} after {received[-100:]!r}")
        self.code = code
        self.received = received


class Http2Client:
    """`credits`: bytes are acknowledged as they come, but those of the streams in `stuck`."""

    def __init__(self, client: Client, *, window: int = 65_535, checks: bool = True) -> None:
        """`checks` False: h2 sends fields that no client may send."""
        self.client = client
        self._frames = ClientFrames(window=window, checks=checks, encoding="latin-1")
        self.http2 = self._frames.http2
        self.stuck: set[int] = set()
        self.fields: dict[int, list[tuple[str, str]]] = {}
        self.informational: list[list[tuple[str, str]]] = []
        self.bodies: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.trailers: dict[int, list[tuple[str, str]]] = {}
        self.resets: dict[int, int] = {}
        self.goaways: list[h2.events.ConnectionTerminated] = []
        self.pongs = 0

    async def flush(self) -> None:
        if data := self.http2.data_to_send():
            await self.client.send(data)

    async def open(
        self,
        target: str = "/",
        *fields: tuple[str, str],
        method: str = "GET",
        ends: bool = True,
        authority: str = "balancer.test",
    ) -> int:
        """Send a request's head -> its stream."""
        pseudo = [
            (":method", method), (":path", target), (":scheme", "http"), (":authority", authority),
        ]  # fmt: skip
        return await self.send_fields([*pseudo, *fields], ends=ends)

    async def send_fields(self, fields: list[tuple[str, str]], *, ends: bool = True) -> int:
        number: int = self.http2.get_next_available_stream_id()
        self.http2.send_headers(number, fields, end_stream=ends)
        await self.flush()
        return number

    async def send_body(self, number: int, data: bytes, *, ends: bool = False) -> None:
        self.http2.send_data(number, data, end_stream=ends)
        await self.flush()

    async def send_trailers(self, number: int, *fields: tuple[str, str]) -> None:
        self.http2.send_headers(number, fields, end_stream=True)
        await self.flush()

    async def reset(self, number: int, code: int = 8) -> None:
        self.http2.reset_stream(number, code)
        await self.flush()

    async def ping(self) -> None:
        """The answer is behind the frames for all that was sent before; it counts in `pongs`."""
        self.http2.ping(b"in order")
        await self.flush()

    async def ask(self, target: str = "/", *fields: tuple[str, str], method: str = "GET") -> Answer:
        return await self.answer(await self.open(target, *fields, method=method))

    async def post(self, body: bytes, target: str = "/", *fields: tuple[str, str]) -> Answer:
        number = await self.open(target, *fields, method="POST", ends=False)
        await self.send_body(number, body, ends=True)
        return await self.answer(number)

    async def answer(self, number: int) -> Answer:
        """The whole response. Raises StreamWasReset."""
        await self.read_until(lambda: number in self.ended or number in self.resets)
        body = bytes(self.bodies.get(number, b""))
        if number not in self.ended:
            raise StreamWasReset(self.resets[number], body)
        status, *fields = self.fields[number]
        return Answer(int(status[1]), fields, body)

    async def head(self, number: int) -> list[tuple[str, str]]:
        await self.read_until(lambda: number in self.fields)
        return self.fields[number]

    async def body(self, number: int, size: int) -> bytes:
        """Once at least `size` bytes have come."""
        await self.read_until(lambda: len(self.bodies.get(number, b"")) >= size)
        return bytes(self.bodies[number])

    async def read_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.take(await self.client.read_some())
            await self.flush()

    async def read_to_end(self) -> None:
        """Until the connection has ended."""
        try:
            while True:
                self.take(await self.client.read_some())
        except Ended:
            return

    def take(self, data: bytes) -> None:
        for event in self._frames.receive(data):
            match event:
                case h2.events.ResponseReceived():
                    self.fields[event.stream_id] = event.headers
                case h2.events.InformationalResponseReceived():
                    self.informational.append(event.headers)
                case h2.events.DataReceived():
                    self.bodies.setdefault(event.stream_id, bytearray()).extend(event.data)
                    if event.stream_id not in self.stuck and event.flow_controlled_length:
                        self.http2.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                case h2.events.TrailersReceived():
                    self.trailers[event.stream_id] = event.headers
                case h2.events.StreamEnded():
                    self.ended.add(event.stream_id)
                case h2.events.StreamReset():
                    self.resets[event.stream_id] = event.error_code
                case h2.events.ConnectionTerminated():
                    self.goaways.append(event)
                case h2.events.PingAckReceived():
                    self.pongs += 1
