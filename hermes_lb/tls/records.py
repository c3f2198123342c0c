"""Finds the beginnings of TLS records in a client's bytes. No I/O.

OpenSSL takes any number of records without data in one call, and does not report them: a KeyUpdate
(RFC 8446 section 4.6.3) costs it three key derivations and perhaps an answer, 17 us. It had a limit
of 32 of them for a whole connection, and gave it up because long connections need more (1.1.1b,
issue 8068); BoringSSL has one of 32 in a row, Go's crypto/tls 16. So they are counted here, and the
reader gets a few records at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Records without data that a client may send in a row, and within one read. A client that renews
# keys for our data does so after gigabytes.
MOST_BARREN = 32

_HEADER = 5  # bytes: type, version, and the length of what follows (RFC 8446 section 5.1)


class Records:
    """Finds the headers in a stream of bytes, which begins with one."""

    __slots__ = ("_header", "_to_come")

    def __init__(self) -> None:
        self._header = b""  # a part of one, if only that has come
        self._to_come = 0  # bytes of the last record

    def split(self, data: bytes) -> Sequence[tuple[bytes, int]]:
        """The next bytes of the stream -> the same in parts, each with how many records begin in
        it: `MOST_BARREN` at most."""
        size, at, begin = len(data), self._to_come, 0
        if at == 0 and size > 4 and (data[3] << 8 | data[4]) + _HEADER == size and not self._header:
            return ((data, 1),)  # as a rule
        if self._header:
            begin = len(self._header)
            data = self._header + data
            size += begin
        parts, begun = [], 0
        while at + _HEADER <= size:
            at += (data[at + 3] << 8 | data[at + 4]) + _HEADER
            begun += 1
            if begun == MOST_BARREN:
                end = min(at, size)
                parts.append((data[begin:end], begun))
                begin, begun = end, 0
        self._header = data[at:]
        self._to_come = max(at - size, 0)
        if begin < size:
            parts.append((data[begin:], begun))
        return parts
