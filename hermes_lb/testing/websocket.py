"""A WebSocket echo (RFC 6455), sufficient for client libraries."""

from __future__ import annotations

import base64
import hashlib
from itertools import cycle
from typing import TYPE_CHECKING

from hermes_lb.testing.messages import Reply, head_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from hermes_lb.testing.connection import Connection
    from hermes_lb.testing.messages import Request

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_CLOSE, _PING, _PONG = 0x8, 0x9, 0xA


def echo(request: Request, connection: Connection) -> Reply:
    """The handshake, then each frame back as it came, until a close frame is answered."""
    return Reply(_frames(request, connection), is_streamed=True)


async def _frames(request: Request, connection: Connection) -> AsyncGenerator[bytes, None]:
    key = (request.header("Sec-WebSocket-Key") or "") + _GUID
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    yield head_of(
        101, {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Accept": accept}
    )
    while True:
        first, payload = await read_frame(connection.read_exactly)
        opcode = first & 0x0F
        if opcode == _PING:
            first += _PONG - _PING
        if opcode != _PONG:
            yield frame(first, payload)
        if opcode == _CLOSE:
            return


async def read_frame(read_exactly: Callable[[int], Awaitable[bytes]]) -> tuple[int, bytes]:
    """The first byte (FIN and opcode) and the payload, unmasked. Section 5.2."""
    first, length = await read_exactly(2)
    is_masked, length = length & 0x80, length & 0x7F
    if length >= 126:
        length = int.from_bytes(await read_exactly(2 if length == 126 else 8), "big")
    mask = await read_exactly(4) if is_masked else b""
    payload = await read_exactly(length)
    if not is_masked:
        return first, payload
    return first, bytes(byte ^ key for byte, key in zip(payload, cycle(mask), strict=False))


def frame(first: int, payload: bytes) -> bytes:
    """An unmasked frame, as servers send them."""
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 1 << 16:
        return bytes([first, 126]) + size.to_bytes(2, "big") + payload
    return bytes([first, 127]) + size.to_bytes(8, "big") + payload
