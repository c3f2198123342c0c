"""A client that a test writes as one of HTTP/1.1, and that speaks HTTP/2.

So a test of what a request means runs by both versions, unchanged: each request that it sends is a
stream, and what comes on the stream is the response that it reads. A stream that is reset is a
connection that is cut. What differs: the end of a response is not the end of the connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import h2.events
import h2.exceptions

from tests.support.http1_wire import Asked, Begins, Requests, Responses
from tests.support.http2_frames import ClientFrames
from tests.support.http_peer import Client, Ended
from tests.support.waiting import PATIENCE, turns

if TYPE_CHECKING:
    import socket

_READ = 64 * 1024
_FRAME = 16 * 1024


class SpokenByHttp2(Client):
    """Credit is given for what a test reads, and only then; it sends what the windows allow."""

    keeps = closes = None  # RFC 9113 section 8.2.2

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._frames = ClientFrames(checks=False)
        self._http2 = self._frames.http2
        self._requests = Requests()
        self._responses = Responses()
        self._present = 0  # the stream of the request that is being sent
        self._to_send: deque[tuple[int, bytes, bool]] = deque()  # DATA: stream, bytes, ends
        self._to_credit: dict[int, int] = {}
        self._out = bytearray()  # frames that the kernel has not taken
        self._reading = asyncio.Lock()
        self._reads = 0
        self._has_left = False  # the balancer

    # What leaves.

    async def send(self, data: bytes) -> None:
        self._say(data)
        async with asyncio.timeout(PATIENCE):
            await self._flush()
            while self._to_send:
                await self._read_once()
                await self._flush()

    async def send_until_stuck(self, data: bytes, most: int) -> int:
        sent = 0
        loop = asyncio.get_running_loop()
        stuck_since: float | None = None
        while sent < most:
            room = self._http2.local_flow_control_window(self._present)
            piece = b"" if self._out else data[sent % len(data) :][:room]
            self._say(piece)
            sent += len(piece)
            self._frame()
            if self._write() or piece:
                stuck_since = None
                await turns(2)
                self._read_what_is_there()
                continue
            now = loop.time()
            stuck_since = stuck_since or now
            if now - stuck_since > 0.3:
                return sent
            await asyncio.sleep(0.005)
            self._read_what_is_there()
        raise AssertionError(f"{sent} bytes were taken, and nothing held us back")

    def half_close(self) -> None:
        """Of a WebSocket: END_STREAM. Of any other: the client sends no more frames."""
        if self._present and self._responses.of(self._present).key:
            with suppress(h2.exceptions.ProtocolError):  # it has been ended
                self._http2.end_stream(self._present)
            self._frame()
            with suppress(OSError):
                self._write()
        else:
            super().half_close()

    def close(self) -> None:
        """Of a WebSocket: its end too, since the connection is not it."""
        if self._present and self._responses.of(self._present).is_tunnel and not self._has_left:
            self.half_close()
        super().close()

    def _say(self, data: bytes) -> None:
        for said in self._requests.take(data):
            if isinstance(said, Begins):
                self._present = self._http2.get_next_available_stream_id()
                self._responses.add(Asked(self._present, said))
                self._http2.send_headers(self._present, said.fields, end_stream=said.ends)
            elif self._responses.of(self._present).was_reset:
                raise ConnectionResetError("the stream was reset")
            else:
                self._to_send.append((self._present, said.data, said.ends))

    def _frame(self) -> None:
        """What the windows allow now."""
        while self._to_send:
            number, data, ends = self._to_send[0]
            if self._responses.of(number).was_reset:
                self._to_send.clear()
                break
            try:
                room = min(self._http2.local_flow_control_window(number), _FRAME)
                if data and room <= 0:
                    break
                part, rest = data[:room], data[room:]
                self._http2.send_data(number, part, end_stream=ends and not rest)
            except h2.exceptions.ProtocolError:  # the balancer has ended the stream
                self._to_send.clear()
                break
            if rest:
                self._to_send[0] = (number, rest, ends)
            else:
                self._to_send.popleft()
        self._out += self._http2.data_to_send()

    async def _flush(self) -> None:
        self._frame()
        if self._out:
            out, self._out = bytes(self._out), bytearray()
            await self._loop.sock_sendall(self.sock, out)

    def _write(self) -> int:
        """What the kernel takes at once -> how many bytes."""
        try:
            taken = self.sock.send(self._out) if self._out else 0
        except BlockingIOError:
            return 0
        del self._out[:taken]
        return taken

    # What arrives.

    async def _receive(self) -> None:
        before = len(self.received)
        try:
            async with asyncio.timeout(PATIENCE):
                while len(self.received) == before:
                    if self._responses.is_cut:
                        raise Ended(self.unread, by_reset=True)
                    if self._has_left or self._responses.is_over:
                        raise Ended(self.unread, by_reset=not self._responses.are_complete)
                    self._credit()
                    await self._flush()
                    await self._read_once()
        except TimeoutError:
            raise AssertionError(f"nothing came after {self.unread[-300:]!r}") from None
        except OSError:
            raise Ended(self.unread, by_reset=True) from None
        self._credit()
        await self._flush()

    async def read_to_end(self) -> bytes:
        """Up to the end of the responses: the connection goes on."""
        try:
            while not self._responses.are_complete:
                await self._receive()
        except Ended as end:
            if end.by_reset:
                raise
        return self._take(len(self.unread))

    async def gets_nothing(self) -> bool:
        await turns(10)
        self._read_what_is_there()
        return not (self.unread or self._has_left or self._responses.is_cut)

    async def _read_once(self) -> None:
        """Unless another task does it first."""
        seen = self._reads
        async with self._reading:
            if self._reads == seen:
                self._took(await self._loop.sock_recv(self.sock, _READ))

    def _read_what_is_there(self) -> None:
        try:
            while not self._has_left:
                self._took(self.sock.recv(_READ))
        except BlockingIOError:
            pass
        except OSError:
            self._has_left = True

    def _took(self, data: bytes) -> None:
        self._reads += 1
        self._has_left = not data
        for event in self._frames.receive(data):
            match event:
                case h2.events.ResponseReceived() | h2.events.InformationalResponseReceived():
                    self._responses.of(event.stream_id).head_came(list(event.headers))
                case h2.events.DataReceived():
                    size = event.flow_controlled_length
                    self._to_credit[event.stream_id] = (
                        self._to_credit.get(event.stream_id, 0) + size
                    )
                    self._responses.of(event.stream_id).data_came(event.data)
                case h2.events.StreamEnded():
                    self._responses.of(event.stream_id).ended()
                case h2.events.StreamReset():
                    self._responses.of(event.stream_id).was_reset = True
        self.received += self._responses.take()

    def _credit(self) -> None:
        for number, size in self._to_credit.items():
            if size:
                self._http2.acknowledge_received_data(size, number)
        self._to_credit.clear()
