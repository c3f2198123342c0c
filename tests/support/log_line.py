"""The access log, as a test reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.observe.httplog import NO_SERVER
from hermes_lb.testing import Record

if TYPE_CHECKING:
    from pathlib import Path


class LogLine:
    """One line of the access log, taken apart, in the words of the log."""

    def __init__(self, line: str) -> None:
        record = Record.parse(line)
        self.line = line
        self.address = record.client.rpartition(":")[0]
        self.server = record.server or NO_SERVER
        self.backend = record.backend or record.frontend
        self.status = record.status
        self.bytes = record.size
        self.termination = record.termination
        self.cookies = record.cookies
        self.retries = f"{'+' if record.was_moved else ''}{record.retries}"
        self.request = record.request
        self.reason = record.reason
        self.queues = record.server_queue, record.backend_queue
        self.connections = record.connections
        # Which phases were reached, e.g. "TR Tw": their times are not -1.
        self.reached = " ".join(
            name for name in ("TR", "Tw", "Tc", "Tr") if record.times[name] >= 0
        )

    def __repr__(self) -> str:
        return self.line


def log_lines(folder: Path) -> list[LogLine]:
    """The access log of the first balancer of the stage in `folder`, as far as it is written."""
    text = (folder / "access-0.log").read_text()
    return [LogLine(line) for line in text.splitlines()]
