"""The handshake of a WebSocket, after the example of RFC 6455 section 1.3."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.http_peer import AtOrigin, Client

# The fields of a request that opens one.
WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


async def switch(client: Client, at_origin: AtOrigin) -> None:
    """The server says 101, and the client hears it."""
    await at_origin.send(SWITCH)
    assert (await client.read_head()).status == 101
