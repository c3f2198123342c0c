"""An event stream of a turn that another server, or another balancer, can continue. No I/O.

Whole events come from one server or several (`EventsBody`); each is numbered and kept, and leaves
as any of a turn's (`NumberedEvents`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.http.sse import EventsBody, chunk

if TYPE_CHECKING:
    from hermes_lb.http.numbered_events import NumberedEvents


class ContinuedEvents(EventsBody):
    """`numbered`: of a body until close, which does not add ids. `after`: as of an EventsBody."""

    __slots__ = ("_frames", "_numbered")

    def __init__(
        self, length: int, numbered: NumberedEvents, *, after: bytes, to_chunks: bool
    ) -> None:
        super().__init__(length, resumes=True, after=after, to_chunks=False)
        self._numbered = numbered
        self._frames = to_chunks

    def feed(self, data: bytes) -> bytes:
        numbered = self._numbered
        passed = super().feed(data)
        if passed:
            passed = numbered.feed(passed)
            while numbered.behind:
                passed += numbered.feed(b"")
        if self.is_done and not self.is_handed_over:
            passed += numbered.end()
        return passed

    def end(self) -> bytes:
        rest = super().end()
        numbered = self._numbered
        return (numbered.feed(rest) if rest else b"") + numbered.end()

    def comment(self, text: bytes) -> bytes:
        # One line end: with an id in effect, some clients see an empty event in a blank line.
        line = text + b"\n"
        return chunk(line) if self._frames else line
