"""A body of which every byte is also kept; a `Body`. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.http.body import LAST_CHUNK, make_body
from hermes_lb.http.sse import chunk

if TYPE_CHECKING:
    from collections.abc import Callable


class KeptBody:
    """`keep`: called with the data as it comes, without its framing.

    `to_chunks`: a body without a length leaves in chunks (HTTP/1.1), and not as it is.
    """

    __slots__ = ("_keep", "_received", "_to_chunks", "excess", "is_done")

    def __init__(self, length: int, keep: Callable[[bytes], None], *, to_chunks: bool) -> None:
        self._received = make_body(length, to_http11=False)
        self._keep = keep
        self._to_chunks = to_chunks and length < 0
        self.is_done = self._received.is_done
        self.excess = b""

    @property
    def behind(self) -> int:
        return self._received.behind

    def feed(self, data: bytes) -> bytes:
        received = self._received
        data = received.feed(data)
        if data:
            self._keep(data)
        if received.is_done:
            self.is_done, self.excess = True, received.excess
        if not self._to_chunks:
            return data
        return chunk(data) + LAST_CHUNK if self.is_done else chunk(data)

    def end(self) -> bytes:
        """The server's connection has ended. Raises InvalidBody if it is too early."""
        self._received.end()
        self.is_done = True
        return LAST_CHUNK if self._to_chunks else b""
