"""Input and output of a connection by HTTP/2, in either role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mypy_extensions import trait

from hermes_lb.http.frames import BrokenConnection
from hermes_lb.proxy.ports import Framed
from hermes_lb.transport.endpoint import UNREAD, Endpoint

if TYPE_CHECKING:
    from hermes_lb.http.frames import Frames
    from hermes_lb.proxy.context import Context

#: Bytes of a message that wait for the peer's window: above the first its sender is paused.
HIGH_WATER, LOW_WATER = 64 * 1024, 16 * 1024


@trait
class Queue:
    """A stream, as far as the bytes that it has queued are concerned."""

    __slots__ = ()

    def slow_down(self) -> bool:
        """Pause the sender, if a write has left more queued than there may be -> whether it is."""
        raise NotImplementedError

    def written(self) -> bool:
        """Go on, if what was queued has left -> whether it has."""
        raise NotImplementedError


class FrameIo(Endpoint, Framed):
    """A read is parsed in slices, so that one peer has its share of a loop iteration (`run_queue`);
    the frames of one iteration leave in one write."""

    __slots__ = (
        "_batch",
        "_frames",
        "_full",
        "_is_dirty",
        "_is_over",
        "_rest",
        "_slice",
        "_slow",
        "context",
    )

    def __init__(self, context: Context, frames: Frames, slice_size: int) -> None:
        """`slice_size`: bytes that are parsed at a time."""
        super().__init__()
        self.context = context
        self._batch = context.batch
        self._frames = frames
        self._slice = slice_size
        self._rest = bytearray()
        self._full: set[Queue] = set()  # have queued more than the high-water mark
        self._slow: set[Queue] = set()  # and still have after a write
        self._is_dirty = False
        self._is_over = False  # neither side has anything more to say

    # Input.

    def _act(self) -> None:
        """Act on the events of the frames."""
        raise NotImplementedError

    def _broken(self, problem: str) -> None:
        """The peer has broken the protocol; `problem` is the codec's text."""
        raise NotImplementedError

    def _proceed(self) -> None:
        """Called after each slice."""
        raise NotImplementedError

    @property
    def behind(self) -> int:
        return len(self._rest)

    def go_on(self) -> None:
        """Parse the next slice, in this loop iteration's batch."""
        raise NotImplementedError

    def process(self, data: bytes) -> None:
        """Parse a slice."""
        if self._is_over:
            return
        rest = self._rest
        rest += data
        if rest:
            part = rest[: self._slice]
            del rest[: self._slice]
            try:
                self._frames.receive(part)
            except BrokenConnection as error:
                self._broken(str(error))
                return
            self._act()
        self._proceed()
        self.has_frames()
        if self.behind:
            self.context.run_queue.put_off(self)

    # Output.

    def _frames_are_over(self, last: bytes) -> None:
        """Neither side has anything more to say. `last`: what was taken just now."""
        raise NotImplementedError

    def _taken(self, frames: bytes) -> None:
        """These frames leave with the next write."""

    def _acted(self) -> None:
        """Called after a write, before its streams are looked at."""

    def pause_writing(self) -> None:
        """The peer does not read: nothing more is written, and nothing read from it."""
        self.is_writing_paused = True
        self.pause_for(UNREAD)

    def resume_writing(self) -> None:
        self.is_writing_paused = False
        self.resume_from(UNREAD)
        self.has_frames()

    def has_frames(self) -> None:
        """Write the frames at the end of this loop iteration."""
        if not self._is_dirty:
            self._is_dirty = True
            self._batch.frames_wait(self)

    def is_full(self, stream: Queue) -> None:
        """It has queued more than it may, unless the next write takes it."""
        self._full.add(stream)

    def _forget_queue(self, stream: Queue) -> None:
        self._full.discard(stream)
        self._slow.discard(stream)

    def write_frames(self) -> None:
        """Called by the batch before it writes."""
        self._is_dirty = False
        data = b""
        if not (self.is_writing_paused or self._is_over):  # else `resume_writing` goes on
            data = self._frames.take()
            if data:
                self._batch.writes.append((self.transport, data))
                self._taken(data)
            self._act()
        self._acted()
        if self._full or self._slow:
            self._look_at_queues()
        if self._frames.is_over and not self._is_over:
            self._frames_are_over(data)

    def _look_at_queues(self) -> None:
        """After a write."""
        full, self._full = self._full, set()
        for stream in full:
            if stream.slow_down():
                self._slow.add(stream)
        for stream in list(self._slow):
            if stream.written():
                self._slow.discard(stream)
