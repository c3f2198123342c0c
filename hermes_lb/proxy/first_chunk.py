"""The time of the first chunk of an event stream, for its span."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.observe.spans import Traced

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.http import Body
    from hermes_lb.proxy.ports import ServerSide

# What a chunked body ends with: of size 0.
_LAST_CHUNK = b"0\r\n"


def timed(
    trace: bytes, body: Body, upstream: ServerSide, clock: Callable[[], float], began: float
) -> Body:
    """The body, or what notes its first chunk if that is asked for by a span and not known yet."""
    if isinstance(trace, Traced) and trace.is_sampled and trace.first_chunk is None:
        return FirstChunkBody(trace, body, upstream, clock, began)
    return body


class FirstChunkBody:
    """A `Body` that notes when its first bytes leave, in seconds since `began`.

    It then leaves the path: `upstream` goes on with the body within. So a chunk after the first one
    costs nothing, and neither does a stream without a span.
    """

    __slots__ = ("_began", "_body", "_clock", "_trace", "_upstream", "excess", "is_done")

    def __init__(
        self,
        trace: Traced,
        body: Body,
        upstream: ServerSide,
        clock: Callable[[], float],
        began: float,
    ) -> None:
        self._trace = trace
        self._body = body
        self._upstream = upstream
        self._clock = clock
        self._began = began
        self.is_done = body.is_done
        self.excess = body.excess

    @property
    def behind(self) -> int:
        return self._body.behind

    def feed(self, data: bytes) -> bytes:
        body, upstream = self._body, self._upstream
        passed = body.feed(data)
        self.is_done, self.excess = body.is_done, body.excess
        if passed and not (body.is_done and passed.startswith(_LAST_CHUNK)):
            self._trace.first_chunk = self._clock() - self._began
            if upstream.body is self:  # or the body within has left the path, too
                upstream.expect(body)
        return passed

    def end(self) -> bytes:
        last = self._body.end()
        self.is_done = self._body.is_done
        return last
