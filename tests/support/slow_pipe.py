"""Targets of logs."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class SlowPipe:
    """A FIFO whose reader reads on request: everything after 64 KiB makes the writer wait."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        try:
            return os.read(self._reader, 1 << 20)
        except BlockingIOError:
            return b""

    def fill(self) -> int:
        """Put in whatever there is room for, lines of "-" -> how many bytes."""
        writer = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        written = 0
        try:
            for piece in (b"-" * 4095 + b"\n", b"\n"):  # PIPE_BUF, which needs a page to itself
                with suppress(BlockingIOError):
                    while True:
                        written += os.write(writer, piece)
        finally:
            os.close(writer)
        return written

    def close(self) -> None:
        os.close(self._reader)
