"""The handshake of a WebSocket, after the example of RFC 6455 section 1.3."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1
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


def accepting(at_origin: AtOrigin) -> bytes:
    """`SWITCH` for the key that this origin has got: by HTTP/2 it is the balancer's."""
    keys = re.findall(rb"\r\nsec-websocket-key: (\S+)", at_origin.received, re.IGNORECASE)
    proof = b64encode(sha1(keys[-1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return SWITCH.replace(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", proof)


async def switch(client: Client, at_origin: AtOrigin) -> None:
    """The server says 101, and the client hears it."""
    await at_origin.send(accepting(at_origin))
    assert (await client.read_head()).status == 101
