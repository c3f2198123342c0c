"""The access log: the data path appends a line to a list, and a thread writes it.

A slow disk, a full pipe or a syslog daemon that hangs never holds up the event loop. Memory is
bounded: what goes beyond it is dropped, counted, and said. Lines stay in their order.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from hermes_lb.observe.background import BackgroundWriter
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from hermes_lb.config.process import Facility

logger = logging.getLogger("hermes_lb.access_log")

FLUSH_EVERY = 0.25  # seconds
SAY_EVERY = 10.0  # seconds between two warnings that lines were lost
MAX_LINES = 200_000  # a few seconds at full speed
MAX_SIZE = 64 * 1024 * 1024  # characters


class Backlog:
    """Lines that wait for the writer, and the room left for more of them."""

    def __init__(self, max_lines: int, max_size: int) -> None:
        self.lines: list[str] = []  # never replaced: the data path holds its `append`
        self._measured = 0  # the number of `lines` that have been taken off the room
        self._size = 0  # of the measured lines
        self._room_lines = max_lines
        self._room_size = max_size

    def trim(self) -> int:
        """Drop the newest lines, those that have no room; returns how many."""
        new = self.lines[self._measured :]
        kept = len(new)
        size = sum(map(len, new))
        if kept > self._room_lines or size > self._room_size:
            kept = size = 0
            for line in new[: self._room_lines]:
                if size + len(line) > self._room_size:
                    break
                size += len(line)
                kept += 1
            del self.lines[self._measured + kept :]
        self._measured += kept
        self._size += size
        self._room_lines -= kept
        self._room_size -= size
        return len(new) - kept

    def take(self) -> tuple[list[str], int]:
        """All lines and their size, after a `trim`. They use up room until `give_back`."""
        taken = self.lines[: self._measured], self._size
        del self.lines[: self._measured]
        self._measured = self._size = 0
        return taken

    def give_back(self, lines: int, size: int) -> None:
        """The writer is done with what was taken."""
        self._room_lines += lines
        self._room_size += size


class AccessLog:
    """Where finished requests are written, a line each.

    `target` is `[log] access` of the configuration: stdout, stderr, off, a path, or
    syslog:/dev/log, syslog:udp://host:514. Call `start` once, `write` from the thread of the event
    loop, and `close` at the end. Lines written before `start` are kept for it. `tag` (the
    configuration's `tag`) and `facility` are for syslog.

    - `write(line)`: the hot path. `line` has no line break. Never fails, never blocks.
    - `enabled`: False for "off": `write` does nothing, so there is no need to build the line.
    - `dropped`: lines lost so far, for lack of room or by an error of the target.
    """

    def __init__(
        self,
        target: str,
        *,
        tag: str = "hermes_lb",
        facility: Facility = "local0",
        flush_every: float = FLUSH_EVERY,
        say_every: float = SAY_EVERY,
        max_lines: int = MAX_LINES,
        max_size: int = MAX_SIZE,
    ) -> None:
        self.target = target
        self.enabled = target != "off"
        self.dropped = 0
        self._backlog = Backlog(max_lines, max_size)
        # The list's own method: a call costs a third of one through a method in Python.
        self.write: Callable[[str], None] = self._backlog.lines.append if self.enabled else _ignore
        self._tag = tag
        self._facility = facility
        self._flush_every = flush_every
        self._say_every = say_every
        self._said = 0  # lost lines that a warning has reported
        self._say_after = float("-inf")
        self._why = ""
        self._closing = asyncio.Event()
        self._tasks = Tasks()
        self._flusher: asyncio.Task[None] | None = None
        self._writer: BackgroundWriter | None = None
        self._being_written = 0

    def __repr__(self) -> str:
        state = "off" if not self.enabled else "open" if self._writer else "closed"
        return f"<AccessLog {self.target} {state}, {self.dropped} dropped>"

    async def start(self, *, may_be_late: bool = False) -> None:
        """Open the target. Raises ValueError, with one line for a person, if that fails.

        `may_be_late`: nothing is waited for or raised. A target that can't be opened costs the
        lines, as one that fails later does, and is tried again.
        """
        if not self.enabled:
            return
        writer = BackgroundWriter(self.target, self._tag, self._facility, may_be_late=may_be_late)
        if may_be_late:
            writer.reopen().add_done_callback(self._say_if_late)
        else:
            await asyncio.wrap_future(writer.opened)
        self._writer = writer
        self._flusher = self._tasks.spawn(self._run(writer), name="access log")

    def reopen(self) -> None:
        """Reopen the target, such as a file that was moved away (SIGUSR1). Never blocks.

        It is done by the writer, after the lines that are being written. A failure is logged, and
        the old target stays in use.
        """
        if self._writer is not None:
            self._writer.reopen().add_done_callback(self._say_reopened)

    def _say_if_late(self, opened: Future[str]) -> None:
        """Called in the writer's thread."""
        if why := opened.result():
            logger.warning("%s; lines are lost until it can", why)

    def _say_reopened(self, reopened: Future[str]) -> None:
        """Called in the writer's thread."""
        if why := reopened.result():
            logger.warning("access log %s: it can't be reopened: %s", self.target, why)
        else:
            logger.info("access log %s: reopened", self.target)

    async def close(self, timeout: float = 5.0) -> None:
        """Write the remaining lines; after `timeout` seconds the rest is dropped. Idempotent."""
        writer, self._writer = self._writer, None
        if writer is None or self._flusher is None:
            return
        self._closing.set()
        finished, _ = await asyncio.wait({self._flusher}, timeout=timeout)
        self.write = _ignore
        if not finished:
            await self._tasks.cancel_all()
            self._lost(self._being_written + len(self._backlog.lines), "it takes nothing")
        self._say(now=float("inf"))
        writer.stop(wait=bool(finished))

    async def _run(self, writer: BackgroundWriter) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._flush_every)
            await self._flush(writer)
        await self._flush(writer)  # lines that arrived during the last batch

    async def _flush(self, writer: BackgroundWriter) -> None:
        self._trim()
        lines, size = self._backlog.take()
        if not lines:
            return
        self._being_written = count = len(lines)
        written = asyncio.wrap_future(writer.write(lines))
        while not written.done():
            await asyncio.wait({written}, timeout=self._flush_every)
            self._trim()
        self._being_written = 0
        self._backlog.give_back(count, size)
        outcome = written.result()
        self._lost(outcome.lost, outcome.error)

    def _trim(self) -> None:
        self._lost(self._backlog.trim(), "it is too slow")

    def _lost(self, lines: int, why: str) -> None:
        if lines:
            self.dropped += lines
            self._why = why
        self._say(asyncio.get_running_loop().time())

    def _say(self, now: float) -> None:
        if self.dropped > self._said and now >= self._say_after:
            lost = self.dropped - self._said
            logger.warning("access log %s: %d lines lost: %s", self.target, lost, self._why)
            self._said = self.dropped
            self._say_after = now + self._say_every


def _ignore(line: str) -> None:
    """What `write` is when there is nothing to write to."""
