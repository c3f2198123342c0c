"""A client of HTTP/2 that behaves; h2 (hyper) reads and writes the frames."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events

from bench.chaos.caller import Cut
from bench.chaos.waiting import PATIENCE

if TYPE_CHECKING:
    from typing import Self

_READ = 256 * 1024


class Http2Caller:
    """One connection, on which one request at a time is asked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._http2.initiate_connection()

    @classmethod
    async def connect(cls, address: tuple[str, int]) -> Self:
        return cls(*await asyncio.open_connection(*address))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.transport.abort()

    async def ask(self, method: str, target: str, *fields: tuple[str, str]) -> int:
        """-> the status of the response, when all of it has come. Raises Cut."""
        http2 = self._http2
        stream = http2.get_next_available_stream_id()
        request = [(":method", method), (":scheme", "http"), (":path", target)]
        http2.send_headers(stream, [*request, (":authority", "a"), *fields], end_stream=True)
        status = 0
        while True:
            self._writer.write(http2.data_to_send())
            for event in http2.receive_data(await self._read()):
                if getattr(event, "stream_id", stream) != stream:
                    continue
                match event:
                    case h2.events.ResponseReceived():
                        status = int(dict(event.headers)[":status"])
                    case h2.events.DataReceived():
                        http2.acknowledge_received_data(event.flow_controlled_length, stream)
                    case h2.events.StreamEnded():
                        self._writer.write(http2.data_to_send())
                        return status
                    case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                        raise Cut(None, b"", by_reset=True)

    async def _read(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            data = await self._reader.read(_READ)
        if not data:
            raise Cut(None, b"", by_reset=False)
        return data
