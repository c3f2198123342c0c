"""Many long-lived client connections in this process, counted but not read.

A fleet costs little: no parsing, one count per read. It shares its core with the upstreams.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Protocol, cast

from bench.live.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

TURN = b"X-Hermes-Turn: "
_BATCH = 250  # connections opened at once, far below any backlog


class Client(Protocol):
    """What a fleet is made of."""

    def close(self) -> None: ...


class Fleet:
    """The clients that are open, and what they have counted together."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.messages = 0  # tokens or frames received
        self.reads = 0  # reads they arrived in
        self.started = 0  # clients that have received their first
        self.turns = 0  # clients whose response is one of a turn
        self.answered_at = 0.0  # when the last head came (the monotonic clock)
        self.lost = 0  # clients whose connection ended before we closed it
        self.refusal = b""  # the first answer that was not the one expected
        self.is_closing = False


class FleetClient(asyncio.Protocol):
    """Sends `request`, then counts `mark` in what arrives after a head that opens with `head`."""

    def __init__(self, fleet: Fleet, request: bytes, head: bytes, mark: bytes) -> None:
        self._fleet = fleet
        self._request = request
        self._head = head
        self._mark = mark
        self._is_answered = False
        self._is_started = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._fleet.clients.append(self)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        fleet = self._fleet
        if not self._is_answered:
            self._is_answered = True
            fleet.answered_at = time.monotonic()
            if not data.startswith(self._head):
                fleet.refusal = fleet.refusal or data[:200]
                self.transport.abort()
                return
            fleet.turns += TURN in data
            self.answered()
        if count := data.count(self._mark):
            fleet.messages += count
            fleet.reads += 1
            if not self._is_started:
                self._is_started = True
                fleet.started += 1
            self.counted()

    def answered(self) -> None:
        """The head has come."""

    def counted(self) -> None:
        """Messages have come."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._fleet.is_closing:
            self._fleet.lost += 1

    def close(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


async def open_fleet(
    fleet: Fleet, make_client: Callable[[], FleetClient], port: int, count: int
) -> None:
    """Open `count` clients to 127.0.0.1:`port` and wait until each has received a message.

    Raises BenchError when one is refused or cut, or when they have not all started in 30 s; of more
    than 3,000, 100 in a second.
    """
    loop = asyncio.get_running_loop()
    patience = max(30.0, count / 100)
    deadline = time.monotonic() + patience
    wanted = len(fleet.clients) + count
    for first in range(0, count, _BATCH):
        batch = range(first, min(first + _BATCH, count))
        await asyncio.gather(
            *(loop.create_connection(make_client, "127.0.0.1", port) for _ in batch)
        )
    while fleet.started < wanted:
        await asyncio.sleep(0.05)
        check_fleet(fleet)
        if time.monotonic() > deadline:
            raise BenchError(
                f"only {fleet.started} of {wanted} streams started in {patience:.0f} s"
            )
    gc.collect()


def check_fleet(fleet: Fleet) -> None:
    """Raise BenchError if a client was refused or cut."""
    if fleet.refusal:
        raise BenchError(f"unexpected answer: {fleet.refusal!r}")
    if fleet.lost:
        raise BenchError(f"{fleet.lost} of {len(fleet.clients)} streams were cut")


async def close_fleet(fleet: Fleet) -> None:
    """Close every client at once."""
    fleet.is_closing = True
    for client in fleet.clients:
        client.close()
    await asyncio.sleep(0.1)
