"""One connection gets a bounded share of a loop iteration, whatever it sends.

libuv reads up to 32 times 256 KB from one connection in one iteration, and 256 KB may be 40,000
chunks, or 10,000 TLS records. So after one large read, or when the parser has not processed all
bytes, a connection is not read from until the next iteration, after the others.

HAProxy bounds the same by its buffer (16 KiB a read) and `tune.runqueue-depth`.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

from hermes_lb.transport.endpoint import SHARE

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("hermes_lb")

#: Bytes. A read of this size is a connection's share: libuv reads again only if its buffer was
#: filled, and bulk transfers gain nothing from more than that.
LARGE_READ = 64 * 1024

# Connections that parse their next part in one iteration, and as many that make another large read.
# Each costs about a quarter of a millisecond (`http.body.MOST_CHUNKS`; 256 KB read and written),
# so a crowd of them does not add up.
_DEPTH = 8


class Source(Protocol):
    """A connection, or a layer of one, that parses its input in parts."""

    @property
    def behind(self) -> int:
        """Bytes that have arrived and are not parsed yet."""

    @property
    def has_had_its_share(self) -> bool:
        """It is paused by SHARE."""

    def go_on(self) -> None:
        """Parse the next part of the unparsed bytes."""

    def pause_for(self, reason: int) -> None: ...

    def resume_from(self, reasons: int) -> None: ...

    def abort(self) -> None: ...


class RunQueue:
    """The connections that continue in a later iteration, in order.

    A connection is in here exactly while it is paused by SHARE.
    """

    __slots__ = ("_is_scheduled", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Source] = deque()
        self._is_scheduled = False

    def __len__(self) -> int:
        return len(self._waiting)

    def received(self, connection: Source, size: int) -> None:
        """A read of `size` bytes has been passed on: was that the connection's share?"""
        if size >= LARGE_READ or connection.behind:
            self.put_off(connection)

    def put_off(self, connection: Source) -> None:
        """Pause it until the next iteration."""
        if not connection.has_had_its_share:
            connection.pause_for(SHARE)
            self._waiting.append(connection)
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._is_scheduled = False
        waiting, self._waiting = self._waiting, deque()
        not_done: list[Source] = []
        reads_left = turns_left = _DEPTH
        for connection in waiting:
            try:
                if not (turns_left if connection.behind else reads_left):
                    self._waiting.append(connection)  # it is the first one next time
                elif not connection.behind:
                    reads_left -= 1
                    connection.resume_from(SHARE)
                else:
                    turns_left -= 1
                    connection.go_on()
                    if connection.behind:
                        not_done.append(connection)
                    else:
                        connection.resume_from(SHARE)
            except Exception:  # a bug of ours must cost one connection, not all that wait
                logger.exception("while serving %r", connection)
                connection.abort()
        self._waiting.extend(not_done)
        if self._waiting:
            self._schedule()
