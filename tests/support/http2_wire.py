"""Frames of HTTP/2 as bytes, also those that no client may send (RFC 9113 sections 4 and 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA, HEADERS, PRIORITY, RST_STREAM, SETTING, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
PRIORITY_UPDATE = 0x10  # RFC 9218

# Flags.
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 0x20

#: By number, section 7.
CODES = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
    "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR",
    "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip

GET = ((":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a"))
POST = ((":method", "POST"), *GET[1:])


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def frames(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, stream and payload of each; the last one may be incomplete."""
    at = 0
    while at + 9 <= len(data):
        end = at + 9 + int.from_bytes(data[at : at + 3])
        stream = int.from_bytes(data[at + 5 : at + 9]) & 0x7FFFFFFF
        yield data[at + 3], data[at + 4], stream, data[at + 9 : end]
        at = end


def block(*fields: tuple[str, str]) -> bytes:
    """Fields as literals that are never indexed, so that blocks do not depend on each other."""
    return b"".join(b"\x10" + _text(name) + _text(value) for name, value in fields)


def _text(value: str) -> bytes:
    raw = value.encode("latin-1")
    return integer(len(raw), 7) + raw


def integer(number: int, bits: int) -> bytes:
    """RFC 7541 section 5.1."""
    most = (1 << bits) - 1
    if number < most:
        return bytes((number,))
    out = bytearray((most,))
    number -= most
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    out.append(number)
    return bytes(out)


def headers(
    *fields: tuple[str, str], stream: int = 1, flags: int = END_STREAM | END_HEADERS
) -> bytes:
    return frame(HEADERS, flags, stream, block(*fields))


def get(*more: tuple[str, str], stream: int = 1) -> bytes:
    """A request, complete."""
    return headers(*GET, *more, stream=stream)


def upload(*more: tuple[str, str], stream: int = 1) -> bytes:
    """A request whose body is to come."""
    return headers(*POST, *more, stream=stream, flags=END_HEADERS)


def setting(name: int, value: int) -> bytes:
    return frame(SETTING, 0, 0, name.to_bytes(2) + value.to_bytes(4))


def reset(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4))


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW, 0, stream, increment.to_bytes(4))
