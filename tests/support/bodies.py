"""Bodies: fed in pieces, and read by a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.http import Body


def feed_all(body: Body, data: bytes) -> bytes:
    """Feed, and go on until nothing is left behind."""
    passed = body.feed(data)
    while body.behind:
        passed += body.feed(b"")
    return passed


def feed(body: Body, pieces: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Feed until it is done -> what left, and all that came behind the end."""
    passed = b""
    for i, piece in enumerate(pieces, 1):
        passed += feed_all(body, piece)
        if body.is_done:
            return passed, body.excess + b"".join(pieces[i:])
    return passed + body.end(), body.excess


def read_chunks(data: bytes) -> bytes:
    """A reference reader: the payload of one whole chunked message, nothing before or behind.

    It knows no extension and no trailer, so it also shows that there were none.
    """
    payload = b""
    while True:
        line, _, data = data.partition(b"\r\n")
        assert line, "no size line"
        assert all(digit in b"0123456789abcdefABCDEF" for digit in line), line
        size = int(line, 16)
        assert data[size : size + 2] == b"\r\n", "no CRLF behind a chunk"
        payload += data[:size]
        data = data[size + 2 :]
        if size == 0:
            assert data == b"", "bytes behind the last chunk"
            return payload
