"""Connections by HTTP/2 with many streams of tokens each, counted and not read."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

import ngh2

if TYPE_CHECKING:
    from bench.live.loads.fleet import Fleet


class StreamsClient(asyncio.Protocol):
    """Opens `streams` requests on its connection, and counts `mark` in what comes."""

    def __init__(
        self, fleet: Fleet, streams: int, request: list[tuple[bytes, bytes]], mark: bytes
    ) -> None:
        self._fleet = fleet
        self._streams = streams
        self._request = request
        self._mark = mark
        self._waiting: set[int] = set()  # streams without a token so far
        self._http2 = ngh2.Connection(ngh2.Role.CLIENT)
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._fleet.clients.append(self)
        self._http2.initiate_connection()
        for _ in range(self._streams):
            self._waiting.add(self._http2.send_request(self._request, end_stream=True))
        self.transport.write(self._http2.data_to_send())

    def data_received(self, data: bytes) -> None:
        fleet, http2 = self._fleet, self._http2
        http2.receive_data(data)
        for event in http2.events():
            if isinstance(event, ngh2.DataReceived):
                if count := event.data.count(self._mark):
                    fleet.messages += count
                    if event.stream_id in self._waiting:
                        self._waiting.discard(event.stream_id)
                        fleet.started += 1
            elif isinstance(event, ngh2.ResponseReceived):
                fleet.answered_at = time.monotonic()
                if dict(event.headers)[b":status"] != b"200":
                    fleet.refusal = fleet.refusal or repr(event.headers).encode()[:200]
            elif isinstance(event, ngh2.StreamClosed) and not fleet.is_closing:
                fleet.lost += 1
        fleet.reads += 1
        if sent := http2.data_to_send():
            self.transport.write(sent)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._fleet.is_closing:
            self._fleet.lost += self._streams

    def close(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
